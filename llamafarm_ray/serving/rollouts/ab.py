"""Comparison of the variants of an A/B rollout with confidence intervals that are valid at every look.

The interval of the difference of two means is the mixture sequential probability ratio test's, inverted (Johari,
Koomen, Pekelis and Walsh, Always Valid Inference: Continuous Monitoring of A/B Tests, Operations Research 70, 2022;
with estimated variances it holds for large samples: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform
central limit theory and asymptotic confidence sequences, Annals of Statistics 52, 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from llamafarm_ray.serving.telemetry.rollout_observations import Moments, Sample

__all__ = ["Gain", "Verdict", "compare", "num_measured"]

Verdict = Literal["better", "worse", "noise"]
"""The candidate beside the baseline, in the words of `llamafarm models evaluate --baseline`."""

_MIXTURE = 0.1
"""The effects that are looked for, in standard deviations: the interval is tightest where it meets them."""
_POWER = 0.8
_MOST_TIMES = 2.0**20
"""So many times the requests so far are the most that are looked for."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Advantage of the candidate: higher feedback, fewer errors, a smaller logarithm of the latency.

    Attributes:
        estimate: the difference; above 0 the candidate is better.
        low: lower end of its interval.
        high: upper end.
        sureness: the highest confidence, 0 to 1, at which the interval would leave no doubt; 0 where none does.
        more_needed: about how many more measured requests, in the variants' present shares, would decide a difference
            of this size four times in five; None if it is decided, or no number of requests that can be hoped for does.
    """

    estimate: float
    low: float
    high: float
    sureness: float
    more_needed: int | None = None

    @property
    def verdict(self) -> Verdict:
        """``better`` or ``worse``, or ``noise`` where chance explains the difference."""
        winner = self.winner
        return "noise" if winner is None else "better" if winner == "candidate" else "worse"

    @property
    def winner(self) -> str | None:
        """``candidate`` or ``baseline`` where the interval leaves no doubt."""
        if self.low > 0:
            return "candidate"
        return "baseline" if self.high < 0 else None


def num_measured(metric: str, sample: Sample) -> int:
    """Return the number of a variant's requests that have a value of a metric."""
    return _MEASURES[metric](sample).count


def compare(metric: str, baseline: Sample, candidate: Sample, *, confidence: float) -> Gain:
    """Return the candidate's advantage over the baseline.

    Args:
        metric: ``feedback``, ``error_rate`` or ``latency``.
        baseline: statistics of the baseline; both variants must have measurements.
        candidate: likewise.
        confidence: the chance, 0 to 1, that the interval holds the true gain at all looks together.

    Returns:
        The gain: ratings from 0 to 1, a share of requests, or for ``latency`` the logarithm of how many times as fast
        a typical answer is.
    """
    ours, theirs = _MEASURES[metric](candidate), _MEASURES[metric](baseline)
    estimate = (ours.mean - theirs.mean) * (1 if metric == "feedback" else -1)
    spread = (_spread(ours) + _spread(theirs)) / 2
    variance = _spread(ours) / ours.count + _spread(theirs) / theirs.count
    mixture = _MIXTURE**2 * spread
    total = variance + mixture
    half = _half(variance, mixture, confidence)
    # The same formula, solved for the confidence at which one end of the interval is at 0.
    doubt = math.exp((math.log(total / variance) - estimate**2 * mixture / (variance * total)) / 2)
    more = None
    if abs(estimate) <= half:
        times = _times_needed(abs(estimate), variance, mixture, confidence)
        more = None if times is None else math.ceil((ours.count + theirs.count) * (times - 1))
    return Gain(estimate, estimate - half, estimate + half, max(0.0, 1 - doubt), more)


def _half(variance: float, mixture: float, confidence: float) -> float:
    """Return half of the interval's width."""
    total = variance + mixture
    return math.sqrt(variance * total / mixture * (math.log(total / variance) - 2 * math.log(1 - confidence)))


def _times_needed(effect: float, variance: float, mixture: float, confidence: float) -> float | None:
    """Return how many times the requests so far decide an effect of this size four times in five; None: too many."""
    luck = NormalDist().inv_cdf(_POWER)

    def decides(times: float) -> bool:
        smaller = variance / times
        return _half(smaller, mixture, confidence) + luck * math.sqrt(smaller) <= effect

    low, high = 1.0, 1.0
    while not decides(high):
        low, high = high, 2 * high
        if high > _MOST_TIMES:
            return None
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def _spread(moments: Moments) -> float:
    """The variance, kept off 0: one value more, a whole unit off the mean, has been seen."""
    return (moments.variance * moments.count + 1) / (moments.count + 1)


def _errors(sample: Sample) -> Moments:
    return Moments(sample.requests, sample.errors, sample.errors)


_MEASURES: Mapping[str, Callable[[Sample], Moments]] = {
    "feedback": lambda sample: sample.ratings,
    "error_rate": _errors,
    "latency": lambda sample: sample.latencies.logarithms,
}
