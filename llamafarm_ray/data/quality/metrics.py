"""Numbers about a dataset as a whole, and the goals that a build must reach."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.config import Comparison, DatasetConfig
from llamafarm_ray.data.quality.score import quality_of
from llamafarm_ray.data.rows import Example, Message
from llamafarm_ray.data.text.vectors import embed
from llamafarm_ray.errors import InputError

__all__ = ["DatasetMetrics", "diversity_of", "measure", "require_goals"]

_SAMPLE = 1000
_BATCH = 256
_DIVERSITY = "dataset.quality_control.metrics.diversity_score"
_QUALITY = "dataset.quality_control.metrics.quality_score"
_COVERAGE = "dataset.quality_control.metrics.coverage_score"
_THRESHOLD = "dataset.validation.quality_threshold"


@dataclass(frozen=True, slots=True)
class DatasetMetrics:
    """Metrics of a dataset, each 0 to 1; None for one that was not asked for.

    Args:
        diversity: mean distance of two questions, see :func:`diversity_of`.
        quality: mean quality of the examples, see :func:`llamafarm_ray.data.quality.score.quality_of`.
        coverage: share of the documents' facts that an example teaches.
    """

    diversity: float | None = None
    quality: float | None = None
    coverage: float | None = None


def diversity_of(questions: Sequence[str]) -> float:
    """Return the mean of one minus the cosine over all pairs of questions; 0.0 if there are fewer than two."""
    count = len(questions)
    if count < 2:
        return 0.0
    total = embed(questions).astype(float).sum(axis=0)
    mean_cosine = (float(total @ total) - count) / (count * (count - 1))
    return min(1.0, max(0.0, 1 - mean_cosine))


def measure(rows: Iterable[Mapping[str, object]], config: DatasetConfig) -> DatasetMetrics:
    """Return the metrics for which there is a goal; coverage apart, which is measured while the rows are written.

    Diversity is that of the 1,000 questions with the smallest ids, so that the order of the rows doesn't matter.

    Args:
        rows: all rows, with ``id``, ``messages`` and ``passage``.
    """
    metrics = config.quality_control.metrics
    wants_quality = metrics.quality_score is not None or config.validation.quality_threshold is not None
    if not wants_quality and metrics.diversity_score is None:
        return DatasetMetrics()
    questions: dict[str, str] = {}
    total, count = 0.0, 0
    for batch in _batches(rows):
        examples = [_example(row) for row in batch]
        questions |= {row["id"]: example.question for row, example in zip(batch, examples, strict=True)}
        questions = {row_id: questions[row_id] for row_id in heapq.nsmallest(_SAMPLE, questions)}
        count += len(examples)
        total += math.fsum(quality_of(examples)) if wants_quality else 0.0
    return DatasetMetrics(
        diversity=None if metrics.diversity_score is None else round(diversity_of(list(questions.values())), 4),
        quality=round(total / max(1, count), 4) if wants_quality else None,
    )


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def _example(row: Mapping[str, Any]) -> Example:
    messages = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
    return Example(messages, "", "", row["passage"])


def require_goals(config: DatasetConfig, measured: DatasetMetrics) -> None:
    """Refuse a dataset that misses a goal; a metric that is None is not looked at.

    Raises:
        InputError: naming every goal that was missed, with the measured value.
    """
    metrics, least = config.quality_control.metrics, config.validation.quality_threshold
    goals = (
        (_DIVERSITY, metrics.diversity_score, measured.diversity),
        (_QUALITY, metrics.quality_score, measured.quality),
        (_THRESHOLD, None if least is None else Comparison.parse(f">={least:g}"), measured.quality),
        (_COVERAGE, metrics.coverage_score, measured.coverage),
    )
    missed = [
        f"{key} is {value:.3f}, and not {goal}"
        for key, goal, value in goals
        if goal is not None and value is not None and not goal.holds(value)
    ]
    if missed:
        raise InputError(
            f"The dataset misses its goals: {'; '.join(missed)}. Nothing was written.",
            hint="Add documents, ask for fewer questions of each, or lower the goal.",
        )
