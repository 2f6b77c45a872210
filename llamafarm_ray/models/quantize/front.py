"""The choice among quantized forms of one model, by their measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamafarm_ray.models.convert.measure import Difference
from llamafarm_ray.models.quantize.quality import Budget, quality

__all__ = ["Candidate", "choose", "on_front"]

_ALIKE = 0.95
"""Speeds from this share of the fastest on count as the same."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A quantized form that was tried.

    Attributes:
        difference: from the source.
        tokens_per_s: of an answer; ``None`` if it was not measured.
    """

    scheme: str
    size_bytes: int
    difference: Difference
    tokens_per_s: float | None = None

    @property
    def rank(self) -> tuple[float, float, float]:
        """Size, quality and speed; more is better."""
        return -self.size_bytes, quality(self.difference), self.tokens_per_s or 0.0


def on_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the Pareto front: those that no other equals in size, quality and speed and surpasses in one."""
    return [one for one in candidates if not any(_dominates(other, one) for other in candidates)]


def choose(candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """Return the fastest within a budget; of those within 5 % of its speed the smallest. ``None`` if there is none."""
    within = [one for one in candidates if budget.is_met(one.difference)]
    if not within:
        return None
    fastest = max(one.tokens_per_s or 0.0 for one in within)
    alike = [one for one in within if (one.tokens_per_s or 0.0) >= _ALIKE * fastest]
    return min(alike, key=lambda one: (one.size_bytes, -quality(one.difference)))


def _dominates(one: Candidate, other: Candidate) -> bool:
    pairs = list(zip(one.rank, other.rank, strict=True))
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)
