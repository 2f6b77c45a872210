"""Confidence intervals of a share, such as a rate of failures, from answers that may depend on each other."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

from llamafarm_ray.evaluation.comparison.resampling import Clusters

__all__ = ["rate_interval", "wilson_interval"]

_CONFIDENCE = 0.95


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """Return the score interval of a share; it is never empty, not even where all or none count.

    Source: Wilson, 1927 (https://doi.org/10.1080/01621459.1927.10502953).

    Args:
        share: the observed share, 0 to 1.
        count: number of independent observations; a fraction for a number of effective ones.
    """
    z = NormalDist().inv_cdf(0.5 + _CONFIDENCE / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def rate_interval(outcomes: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """Return the interval of the mean of outcomes of 0 and 1 that come in clusters.

    Wilson's interval with the number of effective observations, as Korn and Graubard, 1998 (Survey Methodology
    24.2, 193-201) count them: fewer than there are where those of a cluster agree. If all outcomes are equal, each
    cluster counts once.

    Args:
        outcomes: 0.0 or 1.0 each, at least one.
        clusters: group of each outcome, such as the request that several attacks wrap.
    """
    count, share = len(outcomes), math.fsum(outcomes) / len(outcomes)
    summed = Clusters.of(outcomes, clusters)
    effective = float(len(summed.sums))
    if 0 < share < 1 and 0 < summed.standard_error < math.inf:
        effective = min(float(count), max(1.0, share * (1 - share) / summed.standard_error**2))
    return wilson_interval(share, effective)
