"""Answers of an evaluation, one by one: kept beside the result, which has figures alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

__all__ = ["Answered"]


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with its answer and score.

    Args:
        benchmark: the set it belongs to.
        id: its name within the set.
        score: None if it could not be scored.
        failure: the reason for that.
        baseline_answer: the baseline's, where one was asked.
        baseline_score: likewise.
        slices: groups it belongs to, such as ``{"document": "guide.md"}``.
    """

    benchmark: str
    id: str
    prompt: str
    accepted: tuple[str, ...]
    answer: str
    score: float | None
    failure: str = ""
    baseline_answer: str | None = None
    baseline_score: float | None = None
    slices: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return asdict(self)
