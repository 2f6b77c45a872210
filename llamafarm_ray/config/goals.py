"""Goals for evaluation results: a threshold, or a comparison with the version that an alias points at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from llamafarm_ray.config.values import Comparison

__all__ = ["ByVerdict", "Goal", "GoalField", "NoWorse", "is_lower_better", "parse_goal"]

_ALIAS: Final = r"(?P<alias>[a-z0-9][a-z0-9._-]{0,62})"
_BY_VERDICT: Final = re.compile(rf"(?P<kind>better|not significantly worse) than {_ALIAS}")
_NO_WORSE: Final = re.compile(rf"no worse than {_ALIAS}(?: by more than (?P<margin>\d{{1,9}}(?:\.\d{{1,9}})?))?")
_LOWER_IS_BETTER: Final = re.compile(
    r"perplexity|loss|error|jailbreak|injection|memorization|extraction|exposure|fairness|over_refusal|attack_success"
    r"|bias_score|stereotype"
    r"|(?:^|_)(?:latency|time_to_first_token|ttft|toxicity|hallucination|refusal_rate|wer|cer|leak|gap)(?:$|_)"
)
_LOWER_SETS: Final = re.compile(
    r"(?:^|\.)(?:garak\.|(?:wmdp|crows_pairs|simple_cooccurrence_bias|realtoxicityprompts)(?![a-z]))"
)
"""Sets whose scores are failures, whatever their names."""


@dataclass(frozen=True, slots=True)
class NoWorse:
    """A goal such as ``no worse than production``, or ``no worse than production by more than 0.02``.

    Args:
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


@dataclass(frozen=True, slots=True)
class ByVerdict:
    """A goal such as ``better than production``, or ``not significantly worse than production``.

    The verdict of the recorded comparison on the same questions decides, and not the two scores.

    Args:
        alias: the alias whose version it is compared with.
    """

    spelling: str
    alias: str
    verdicts: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read the spelling; None if it is another one."""
        match = _BY_VERDICT.fullmatch(" ".join(text.split()))
        if match is None:
            return None
        return cls(
            match[0], match["alias"], frozenset({"better"} if match["kind"] == "better" else {"better", "noise"})
        )

    def __str__(self) -> str:
        return self.spelling


Goal = Comparison | NoWorse | ByVerdict


def parse_goal(value: object) -> Goal:
    """Read a goal.

    Raises:
        ValueError: the value has another form.
    """
    if isinstance(value, Goal):
        return value
    if isinstance(value, str) and (relative := NoWorse.parse(value) or ByVerdict.parse(value)) is not None:
        return relative
    try:
        return Comparison.parse(value)
    except ValueError:
        raise ValueError(
            "must be a comparison such as '>0.7', or 'no worse than production', 'not significantly worse than "
            "production' or 'better than production'"
        ) from None


GoalField = Annotated[
    Goal,
    PlainValidator(parse_goal),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]


def is_lower_better(name: str) -> bool:
    """Return True for the dotted name of a metric that falls when a model gets better, such as ``perplexity``."""
    return _LOWER_SETS.search(name) is not None or _LOWER_IS_BETTER.search(name.rpartition(".")[2]) is not None
