"""Scores of a benchmark from lm-eval's report: the benchmark's, and those of each question."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from llamafarm_ray.config.goals import is_lower_better
from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.benchmarks.digests import digest_of
from llamafarm_ray.evaluation.item_scores import ItemScores
from llamafarm_ray.evaluation.result import BenchmarkScores

__all__ = ["scores_of"]

_NAMES: Final = {"acc": "accuracy"}
_TEXTS: Final = ("document", "passage", "article", "context", "story")
"""Columns with the text that several questions are about, or its name."""


def scores_of(results: Mapping[str, Any], name: str) -> BenchmarkScores:
    """Return a task's or group's scores from lm-eval's report, without those that are no finite numbers.

    Raises:
        InputError: it has none.
    """
    reported = {**results["results"].get(name, {}), **results.get("groups", {}).get(name, {})}
    metrics: dict[str, float] = {}
    for key, value in reported.items():
        metric, _, filter_name = str(key).partition(",")
        if filter_name and isinstance(value, int | float) and math.isfinite(value):
            metrics[_metric_name(metric, filter_name)] = float(value)
    if not metrics:
        raise InputError(f"lm-eval reports no score of {name}.", hint="Name one of its tasks.")
    metrics = dict(sorted(metrics.items(), key=lambda one: (one[0].endswith("_stderr"), one[0] != "accuracy")))
    counts = results.get("n-samples", {})
    members = results.get("group_subtasks", {}).get(name) or [name]
    asked = [counts[member]["effective"] for member in members if member in counts]
    items = _item_scores(results, name, metrics)
    return BenchmarkScores(metrics, num_examples=sum(asked) if asked else None, items=items)


_BEST_IN_THE_MIDDLE = frozenset({"pct_stereotype", "pct_male_preferred", "pct_female_preferred"})
"""Shares of choices of which a half is the best: neither more nor less of them is better."""


def _metric_name(metric: str, filter_name: str) -> str:
    """Return the name in results of one of lm-eval's metrics: ``accuracy``, ``acc_norm``, ``exact_match.strict``."""
    base, is_error = metric.removesuffix("_stderr"), metric.endswith("_stderr")
    written = _NAMES.get(base, base) + ("_stderr" if is_error else "")
    return written if filter_name == "none" else f"{written}.{filter_name}"


def _item_scores(results: Mapping[str, Any], name: str, metrics: Mapping[str, float]) -> ItemScores:
    """Return the scores of each question, for those metrics whose value is the mean of them.

    Other metrics, such as BLEU of all answers or a mean of unequal tasks' means, can't be compared by questions.
    """
    found: dict[str, dict[str, float]] = {}
    documents: dict[str, str] = {}
    falling = set()
    for task, sample in _samples(results):
        item = f"{task}:{sample['doc_id']}"
        for metric in sample["metrics"]:
            written, value = _metric_name(metric, sample["filter"]), sample[metric]
            if written in metrics and _is_score(value) and metric not in _BEST_IN_THE_MIDDLE:
                found.setdefault(written, {})[item] = float(value)
                if results.get("higher_is_better", {}).get(task, {}).get(metric) is False:
                    falling.add(written)
        text = next((sample["doc"][key] for key in _TEXTS if sample["doc"].get(key)), None)
        if text is not None:
            documents[item] = digest_of(text).removeprefix("sha256:")[:16]
    means = {metric: math.fsum(scores.values()) / len(scores) for metric, scores in found.items()}
    kept = {metric: one for metric, one in found.items() if math.isclose(means[metric], metrics[metric], abs_tol=1e-9)}
    falling |= {metric for metric in kept if is_lower_better(f"{name}.{metric}")}
    return ItemScores(kept, documents, tuple(sorted(falling & kept.keys())))


def _samples(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for task, samples in results.get("samples", {}).items():
        yield from ((task, sample) for sample in samples)


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
