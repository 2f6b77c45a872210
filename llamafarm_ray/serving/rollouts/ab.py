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

from llamafarm_ray.serving.telemetry.rollout_observations import Moments, Sample

__all__ = ["Gain", "compare", "num_measured"]

_MIXTURE = 0.1
"""The effects that are looked for, in standard deviations: the interval is tightest where it meets them."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Advantage of the candidate: higher feedback, fewer errors, a smaller logarithm of the latency.

    Attributes:
        estimate: the difference; above 0 the candidate is better.
        low: lower end of its interval.
        high: upper end.
        sureness: the highest confidence, 0 to 1, at which the interval would leave no doubt; 0 where none does.
    """

    estimate: float
    low: float
    high: float
    sureness: float

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
    half = math.sqrt(variance * total / mixture * (math.log(total / variance) - 2 * math.log(1 - confidence)))
    # The same formula, solved for the confidence at which one end of the interval is at 0.
    doubt = math.exp((math.log(total / variance) - estimate**2 * mixture / (variance * total)) / 2)
    return Gain(estimate, estimate - half, estimate + half, max(0.0, 1 - doubt))


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
