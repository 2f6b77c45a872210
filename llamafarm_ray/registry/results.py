"""Numbers that goals name, found in the evaluation results of a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeGuard

__all__ = ["metric_value", "result_backend", "result_value"]

_RESULTS: Final = "evaluation_results"
_GROUPS: Final = ("benchmarks", "benchmarks.held_out", "rag_integration", "production_metrics", "risk", "judge")
_COUNTS: Final = frozenset({"num_examples", "num_skipped"})


def metric_value(metrics: Mapping[str, object], name: str) -> float | None:
    """Return the number under a dotted name; the longest keys win, so ``bench.mmlu`` finds both nestings of it."""
    value = _found(metrics, name)
    return value if isinstance(value, float) else None


def result_value(metrics: Mapping[str, object], name: str) -> float | None:
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


def result_backend(metrics: Mapping[str, object], name: str) -> str:
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


def _main_score(scores: Mapping[str, object]) -> float | None:
    numbers = {key: float(value) for key, value in scores.items() if key not in _COUNTS and _is_number(value)}
    return numbers.get("accuracy", next(iter(numbers.values()), None))


def _found(metrics: Mapping[str, object], name: str) -> float | Mapping[str, object] | None:
    """Return the number under a dotted name, else the group of that name."""
    if name in metrics:
        value = metrics[name]
        return float(value) if _is_number(value) else value if isinstance(value, Mapping) else None
    group: Mapping[str, object] | None = None
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


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
