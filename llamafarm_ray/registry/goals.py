"""Goals for evaluation results: a threshold, or no worse than what an alias points at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from llamafarm_ray.config.values import Comparison

__all__ = [
    "Goal",
    "GoalField",
    "NoWorse",
    "is_lower_better",
    "metric_value",
    "parse_goal",
    "result_backend",
    "result_value",
]

_NO_WORSE: Final = re.compile(
    r"no worse than (?P<alias>[a-z0-9][a-z0-9._-]{0,62})(?: by more than (?P<margin>\d{1,9}(?:\.\d{1,9})?))?"
)
_LOWER_IS_BETTER: Final = re.compile(
    r"perplexity|loss|error|jailbreak|injection|memorization|extraction|exposure|fairness|over_refusal|attack_success"
    r"|bias_score|stereotype"
    r"|(?:^|_)(?:latency|time_to_first_token|ttft|toxicity|hallucination|refusal_rate|wer|cer|leak|gap)(?:$|_)"
)
_LOWER_SETS: Final = re.compile(
    r"(?:^|\.)(?:garak\.|(?:wmdp|crows_pairs|simple_cooccurrence_bias|realtoxicityprompts)(?![a-z]))"
)
"""Sets whose scores are failures, whatever their names."""
_RESULTS: Final = "evaluation_results"
_GROUPS: Final = ("benchmarks", "benchmarks.held_out", "rag_integration", "production_metrics", "risk", "judge")
_COUNTS: Final = frozenset({"num_examples", "num_skipped"})


@dataclass(frozen=True, slots=True)
class NoWorse:
    """A goal such as ``no worse than production``, or ``no worse than production by more than 0.02``.

    Args:
        spelling: the goal as it was written.
        alias: the alias whose version it is compared with.
        margin: difference that is let through.
    """

    spelling: str
    alias: str
    margin: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read the spelling; None if it is another one."""
        match = _NO_WORSE.fullmatch(" ".join(text.split()))
        return cls(match[0], match["alias"], float(match["margin"] or 0)) if match else None

    def holds(self, name: str, measured: float, other: float) -> bool:
        """Return True if ``measured`` is no worse than ``other``; the metric's name says which direction is better."""
        lost = measured - other if is_lower_better(name) else other - measured
        return lost <= self.margin + 1e-12

    def __str__(self) -> str:
        return self.spelling


Goal = Comparison | NoWorse


def parse_goal(value: object) -> Goal:
    """Read a goal.

    Raises:
        ValueError: the value has another form.
    """
    if isinstance(value, Comparison | NoWorse):
        return value
    if isinstance(value, str) and (relative := NoWorse.parse(value)) is not None:
        return relative
    try:
        return Comparison.parse(value)
    except ValueError:
        raise ValueError("must be a comparison such as '>0.7', or 'no worse than production'") from None


GoalField = Annotated[
    Comparison | NoWorse,
    PlainValidator(parse_goal),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]


def is_lower_better(name: str) -> bool:
    """Return True for the dotted name of a metric that falls when a model gets better, such as ``perplexity``."""
    return _LOWER_SETS.search(name) is not None or _LOWER_IS_BETTER.search(name.rpartition(".")[2]) is not None


def metric_value(metrics: Mapping[str, Any], name: str) -> float | None:
    """Return the number under a dotted name; the longest keys win, so ``bench.mmlu`` finds both nestings of it."""
    value = _found(metrics, name)
    return value if isinstance(value, float) else None


def result_value(metrics: Mapping[str, Any], name: str) -> float | None:
    """Return the number that a rule names: by its whole dotted name, or by a shorter one within evaluation results.

    ``mmlu`` is the benchmark's ``accuracy`` (else its first score), ``mmlu.acc_norm`` another score of it,
    ``perplexity`` one of the held-out examples, ``rag_accuracy`` or ``error_rate`` one of the other groups, and
    ``jailbreaks`` the first score of a risk.
    """
    for place in _places(name):
        value = _found(metrics, place)
        if isinstance(value, float):
            return value
        if value is not None and (main := _main_score(value)) is not None:
            return main
    return None


def result_backend(metrics: Mapping[str, Any], name: str) -> str:
    """Return the engine behind the number that a rule names; empty where it is not recorded."""
    for place in _places(name):
        value = _found(metrics, place)
        if value is None or (isinstance(value, Mapping) and _main_score(value) is None):
            continue
        scores = value if isinstance(value, Mapping) else _found(metrics, place.rpartition(".")[0])
        digests = scores.get("digests") if isinstance(scores, Mapping) else None
        return str(digests.get("backend", "")) if isinstance(digests, Mapping) else ""
    return ""


def _places(name: str) -> tuple[str, ...]:
    """Return the dotted names that a rule's name may stand for, the nearest first."""
    return (name, f"{_RESULTS}.{name}", *(f"{_RESULTS}.{group}.{name}" for group in _GROUPS))


def _main_score(scores: Mapping[str, Any]) -> float | None:
    numbers = {key: float(value) for key, value in scores.items() if key not in _COUNTS and _is_number(value)}
    return numbers.get("accuracy", next(iter(numbers.values()), None))


def _found(metrics: Mapping[str, Any], name: str) -> float | Mapping[str, Any] | None:
    """Return the number under a dotted name, else the group of that name."""
    if name in metrics:
        value = metrics[name]
        return float(value) if _is_number(value) else value if isinstance(value, Mapping) else None
    group: Mapping[str, Any] | None = None
    for head, rest in _splits(name):
        inner = metrics.get(head)
        found = _found(inner, rest) if isinstance(inner, Mapping) else None
        if isinstance(found, float):
            return found
        group = group or found
    return group


def _splits(name: str) -> Iterator[tuple[str, str]]:
    parts = name.split(".")
    for number in range(1, len(parts)):
        yield ".".join(parts[:number]), ".".join(parts[number:])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
