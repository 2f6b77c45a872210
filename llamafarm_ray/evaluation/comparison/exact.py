"""Exact test of paired right and wrong answers, and the correction for several tests."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["holm", "mcnemar"]


def mcnemar(num_better: int, num_worse: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Source: McNemar, 1947 (https://doi.org/10.1007/BF02295996), by the binomial distribution.

    Args:
        num_better: examples that the model alone answers right.
        num_worse: examples that the baseline alone answers right.
    """
    num_better, num_worse = int(num_better), int(num_worse)  # numpy's integers would overflow
    total = num_better + num_worse
    term, tail = 1, 0
    for k in range(min(num_better, num_worse) + 1):
        tail += term
        term = term * (total - k) // (k + 1)
    return min(1.0, tail / (1 << max(0, total - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for being several: the chance of one false alarm among all stays the level.

    Source: Holm, 1979 (https://www.jstor.org/stable/4615733).
    """
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted
