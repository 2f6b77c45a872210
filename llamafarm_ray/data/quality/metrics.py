"""Numbers about a dataset as a whole, and the goals that a build must reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamafarm_ray.config import Comparison
from llamafarm_ray.data.quality.vectors import embed
from llamafarm_ray.errors import InputError

__all__ = ["DatasetMetrics", "diversity_of", "require_goals"]


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
    if count < 2:  # noqa: PLR2004
        return 0.0
    total = embed(questions).astype(float).sum(axis=0)
    mean_cosine = (float(total @ total) - count) / (count * (count - 1))
    return min(1.0, max(0.0, 1 - mean_cosine))


def require_goals(goals: Mapping[str, Comparison | None], measured: Mapping[str, float | None]) -> None:
    """Refuse a dataset that misses a goal.

    Args:
        goals: goal by dotted key; None for no goal.
        measured: the measured value by the same keys.

    Raises:
        InputError: naming every goal that was missed, with the measured value.
    """
    missed = [
        f"{key} is {value:.3f}, not {goal}"
        for key, goal in goals.items()
        if goal is not None and (value := measured.get(key)) is not None and not goal.holds(value)
    ]
    if missed:
        raise InputError(
            f"The dataset misses its goals: {'; '.join(missed)}. Nothing was written.",
            hint="Add documents, ask for fewer questions of each, or lower the goal.",
        )
