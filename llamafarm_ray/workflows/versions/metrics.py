"""Evaluation results as flat names and numbers, and their sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.result import RESULTS, SECTIONS, EvaluationResult
from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.registry.governance.policy import flat_metrics
from llamafarm_ray.registry.state.records import EVALUATED_ON
from llamafarm_ray.storage.local import write_whole

__all__ = [
    "add_result",
    "flat_metrics",
    "main_metric",
    "merged_results",
    "read_json",
    "read_metrics",
    "record_metrics",
    "short_name",
    "write_json",
]

_APART = {"baseline", EVALUATED_ON}
"""Groups of results that are another model's, or those of another base."""

_FEW = 3
_SHOWN = 60
_TELLING = ("accuracy", "acc", "f1", "exact_match", "score", "rouge_l", "bleu", "perplexity", "loss")
"""Endings of metrics to show in lists: the first that one of a version's results has."""


def main_metric(metrics: Mapping[str, object]) -> tuple[str, float] | None:
    """The result that says most, by dotted name; ``None`` where nothing was measured."""
    flat = {name: value for name, value in flat_metrics(metrics).items() if not _APART & {*name.split(".")}}
    for ending in _TELLING:
        for name, value in flat.items():
            if name.rpartition(".")[2].endswith(ending):
                return name, value
    return next(iter(flat.items()), None)


def short_name(name: str) -> str:
    """A result's dotted name for people: without what all results that ``evaluate`` writes start with."""
    return name.removeprefix("evaluation_results.").removeprefix("benchmarks.")


def record_metrics(registry: RegistryApi, reference: str, path: Path, *, reason: str = "") -> VersionRecord:
    """Add a file's evaluation results to a version.

    Results that it has are kept; those of the same names are replaced, benchmark by benchmark.

    Raises:
        InputError: the file is no JSON object, or its results can't be added to those of the version.
    """
    metrics = read_metrics(path)
    record = registry.resolve(reference)
    registry.record_metrics(record.ref, merged_results(record.ref, record.metrics, metrics), reason=reason or path.name)
    return registry.resolve(record.ref)


def add_result(
    registry: RegistryApi, reference: str, result: EvaluationResult, *, reason: str = "evaluate"
) -> VersionRecord:
    """Add a result to those that a version has: its benchmarks replace earlier ones of the same names alone.

    Raises:
        NotFoundError: there is no such version.
        InputError: it has results of another shape, which would be lost.
    """
    record = registry.resolve(reference)
    registry.record_metrics(record.ref, merged_results(record.ref, record.metrics, result.to_dict()), reason=reason)
    return registry.resolve(record.ref)


def merged_results(ref: str, known: Mapping[str, Any], added: Mapping[str, object]) -> dict[str, object]:
    """Return new results, with the benchmarks and other groups that only the earlier ones have.

    Args:
        ref: the version that they are of.
        known: the earlier results.

    Raises:
        InputError: the results are of a shape that would lose the earlier ones.
    """
    old, new = known.get(RESULTS), added.get(RESULTS)
    if old is None or new is None:
        return dict(added)
    if not _is_result(old) or not _is_result(new):
        whose = "it has" if not _is_result(old) else "are given"
        raise InputError(
            f"The {RESULTS} of {ref} can't be added to: those that {whose} are no mapping with benchmarks.",
            hint="Register the files as another version with these results.",
        )
    both = {name: {**old.get(name, {}), **new.get(name, {})} for name in ("benchmarks", *SECTIONS)}
    return {**added, RESULTS: {**old, **new, **{name: scores for name, scores in both.items() if scores}}}


def _is_result(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and all(
        isinstance(value.get(name, {}), Mapping) for name in ("benchmarks", *SECTIONS)
    )


def write_json(value: Mapping[str, object], path: Path) -> None:
    """Write a result as JSON, whole or not at all.

    Raises:
        InputError: the file can't be written.
    """
    try:
        write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}.", hint="Choose another --output.") from None


def read_metrics(path: Path) -> dict[str, object]:
    """Evaluation results from a file that ``evaluate`` wrote.

    Raises:
        InputError: it is no JSON object, holds no numbers, or one that is none (NaN).
    """
    metrics = read_json(path)
    if "evaluation_results" in metrics:
        metrics.pop("questions", None)  # a row for each question: for people, too much for a registry
    if not metrics:
        raise InputError(f"{path} holds no results.", hint="Give a file that `evaluate` wrote.")
    try:
        has_numbers = bool(flat_metrics(metrics))
    except OverflowError as error:
        raise InputError(
            f"{path} holds a number that is too large: {error}.", hint="Give numbers below 1e308."
        ) from None
    if not has_numbers:
        shown = ", ".join(f"{name} is {json.dumps(value)[:_SHOWN]}" for name, value in list(metrics.items())[:_FEW])
        raise InputError(f"{path} holds no numbers: {shown}.", hint="Write results as numbers, without quotes.")
    return metrics


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in a file.

    Raises:
        InputError: it can't be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read as JSON: {error}.", hint="Give a file that `evaluate` wrote.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}, not an object.")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
