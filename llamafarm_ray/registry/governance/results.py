"""Numbers that goals name, found in the evaluation results of a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeGuard

__all__ = ["MEASURED_ALIKE", "UNDECIDABLE", "metric_value", "result_digests", "result_value", "result_verdict"]

MEASURED_ALIKE: Final = ("data", "settings", "template", "backend", "code")
"""Digests that two scores must share to be compared with each other."""
UNDECIDABLE: Final = "undecidable"
"""The verdict on a number that was compared on examples of too few documents."""
_RESULTS: Final = "evaluation_results"
_RAG: Final = f"{_RESULTS}.rag_integration."
_RETRIEVED: Final = f"{_RESULTS}.benchmarks.retrieved"
_RAG_SCORES: Final = {"rag_accuracy": "accuracy", "response_quality": "accuracy", "retrieval_relevance": "hit_rate"}
"""Scores of the answers with retrieved passages, by their names in ``rag_integration``; other names are the same."""
_GROUPS: Final = ("benchmarks", "benchmarks.held_out", "rag_integration", "production_metrics", "risk", "judge")
_SIGNIFICANT: Final = 0.05
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
        if value is not None and (main := _main_metric(value)) is not None:
            return metric_value(value, main)
    return None


def result_digests(metrics: Mapping[str, object], name: str) -> dict[str, str]:
    """Return the digests of `MEASURED_ALIKE` behind the number that a rule names; {} where none are recorded."""
    scores, _ = _score(metrics, name)
    digests = scores.get("digests")
    known = digests if isinstance(digests, Mapping) else {}
    return {part: str(known[part]) for part in MEASURED_ALIKE if part in known}


def result_verdict(metrics: Mapping[str, object], name: str) -> tuple[str, str]:
    """Return the verdict on the number that a rule names, and the name of the model that it was compared with.

    Either is empty where it is not recorded. The verdict is `UNDECIDABLE` where the examples come from so few documents
    that no difference could have been found: the least p-value of the comparison says so.
    """
    scores, metric = _score(metrics, name)
    compared = scores.get("comparison")
    found = (compared.get(metric) or compared.get(f"log_{metric}")) if isinstance(compared, Mapping) else None
    known = found if isinstance(found, Mapping) else {}
    least = known.get("least_p_value")
    verdict = UNDECIDABLE if _is_number(least) and least >= _SIGNIFICANT else known.get("verdict", "")
    return str(verdict), str(scores.get("compared_with") or "")


def _score(metrics: Mapping[str, object], name: str) -> tuple[Mapping[str, object], str]:
    """Return the scores among which the number is that a rule names, and its key in them.

    Those of ``rag_integration`` are a summary: the scores of the answers with retrieved passages stand for them.
    """
    for place in _places(name):
        value = _found(metrics, place)
        if isinstance(value, float) and place.startswith(_RAG):
            scores, key = _found(metrics, _RETRIEVED), place.removeprefix(_RAG)
            return scores if isinstance(scores, Mapping) else {}, _RAG_SCORES.get(key, key)
        if isinstance(value, Mapping) and (main := _main_metric(value)) is not None:
            return value, main
        if isinstance(value, float):
            splits = [("", place), *_splits(place)]
            groups = [(_found(metrics, head) if head else metrics, key) for head, key in splits]
            found = ((group, key) for group, key in groups if isinstance(group, Mapping) and key in group)
            return next(found, ({}, ""))
    return {}, ""


def _places(name: str) -> tuple[str, ...]:
    """Return the dotted names that a rule's name may stand for, the nearest first."""
    return (name, f"{_RESULTS}.{name}", *(f"{_RESULTS}.{group}.{name}" for group in _GROUPS))


def _main_metric(scores: Mapping[str, object]) -> str | None:
    """Return the key of the score that stands for the others; None if there are no scores."""
    numbers = [key for key, value in scores.items() if key not in _COUNTS and _is_number(value)]
    return "accuracy" if "accuracy" in numbers else next(iter(numbers), None)


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
