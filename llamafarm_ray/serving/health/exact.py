"""Fisher's exact test of two shares, for many pairs of shares at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["log_factorial", "shares_differ"]

Numbers = npt.NDArray[np.float64]

_EXACT_BELOW = 32


def log_factorial(numbers: npt.ArrayLike) -> Numbers:
    """Return the natural logarithms of factorials, exact to 1e-12, by Stirling's series (Abramowitz, Stegun 6.1.41)."""
    n = np.asarray(numbers, dtype=np.float64)
    table = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, _EXACT_BELOW)))))
    small = table[np.minimum(n, _EXACT_BELOW - 1).astype(int)]
    x = np.maximum(n, _EXACT_BELOW) + 1
    series = 1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5)
    large = (x - 0.5) * np.log(x) - x + 0.5 * np.log(2 * np.pi) + series
    found: Numbers = np.where(n < _EXACT_BELOW, small, large)
    return found


def shares_differ(
    count: npt.ArrayLike, total: int, reference_count: npt.ArrayLike, reference_total: int, *, one_sided: bool = False
) -> Numbers:
    """Return the p-values of the hypothesis that two samples have equal shares of something.

    Given how many of both together have it, how many of the first have it follows the hypergeometric distribution,
    whatever the share is: the p-value holds for any sample size and any share (Fisher, 1935).

    Args:
        count: number of the sample that have it, shape ``(k,)``.
        total: size of the sample.
        reference_count: number of the reference that have it, shape ``(k,)``.
        one_sided: test only whether the sample's share is higher; by default either, with twice the smaller tail.
    """
    have, others = np.atleast_1d(np.asarray(count, float)), np.atleast_1d(np.asarray(reference_count, float))
    both = (have + others)[:, None]
    outcomes = np.arange(total + 1, dtype=np.float64)[None, :]
    possible = (outcomes <= both) & (both - outcomes <= reference_total)
    at = np.where(possible, outcomes, 0.0)
    rest = np.where(possible, both - outcomes, 0.0)
    logs = _log_choose(total, at) + _log_choose(reference_total, rest) - _log_choose(total + reference_total, both)
    chances = np.where(possible, np.exp(logs), 0.0)
    upper = np.where(outcomes >= have[:, None], chances, 0.0).sum(axis=1)
    lower = np.where(outcomes <= have[:, None], chances, 0.0).sum(axis=1)
    found: Numbers = np.minimum(1.0, upper if one_sided else 2 * np.minimum(lower, upper))
    return found


def _log_choose(n: int, k: Numbers) -> Numbers:
    chosen: Numbers = log_factorial(n) - log_factorial(k) - log_factorial(n - k)
    return chosen
