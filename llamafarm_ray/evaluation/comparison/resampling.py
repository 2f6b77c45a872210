"""Resampling of clustered differences: bootstrap intervals and a sign-flip test, with numpy alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clusters", "interval_of", "sign_test"]

RESAMPLES = 10_000
_CHUNK_CELLS = 4_000_000
_NORMAL = NormalDist()

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Clusters:
    """Paired differences, summed by cluster. Their mean is ``sums.sum() / weights.sum()``.

    Args:
        sums: sum of the differences of each cluster.
        weights: sum of the weights of each cluster: numbers of examples, or of tokens.
    """

    sums: Floats
    weights: Floats

    @classmethod
    def of(
        cls, differences: Sequence[float], clusters: Sequence[Hashable], weights: Sequence[float] | None = None
    ) -> Clusters:
        """Sum differences by cluster.

        Args:
            differences: model minus baseline, an example each.
            clusters: group of each example; its document, for questions about documents.
            weights: weight of each example in the mean's denominator; None: 1 each.
        """
        numbers: dict[Hashable, int] = {}
        at = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)
        sizes = None if weights is None else np.asarray(weights, dtype=np.float64)
        return cls(
            np.bincount(at, weights=np.asarray(differences, dtype=np.float64)).astype(np.float64),
            np.bincount(at, weights=sizes).astype(np.float64),
        )

    @property
    def mean(self) -> float:
        """The mean difference."""
        return float(self.sums.sum() / self.weights.sum())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, robust to clusters; infinite with fewer than two.

        Source: the linearized variance of a ratio (Cochran, Sampling Techniques, 1977, chapter 6).
        """
        count = len(self.sums)
        if count < 2:  # one cluster says nothing about others
            return math.inf
        residuals = self.sums - self.mean * self.weights
        return float(math.sqrt(count / (count - 1) * float((residuals**2).sum())) / self.weights.sum())


def interval_of(
    clusters: Clusters, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return a confidence interval of the mean difference; infinite ends with fewer than two clusters.

    Whole clusters are drawn with replacement. The percentiles are expanded for few clusters, as Hesterberg, 2015
    (https://doi.org/10.1080/00031305.2015.1089789, section 5.3) does; plain ones are too narrow.
    """
    count = len(clusters.sums)
    if count < 2:  # likewise
        return -math.inf, math.inf
    means = np.sort(_resampled_means(clusters, resamples, np.random.default_rng(seed)))
    tail = _NORMAL.cdf(-math.sqrt(count / (count - 1)) * _t_quantile(0.5 + confidence / 2, count - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def sign_test(clusters: Clusters, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Return the two-sided p-value of no difference: each cluster could as well have had the other sign.

    Exact where model and baseline are exchangeable, whatever the distribution. Source: the randomization test of
    paired differences (Fisher, The Design of Experiments, 1935, section 21), by cluster.
    """
    sums = clusters.sums[clusters.sums != 0]
    if not len(sums):
        return 1.0
    observed = abs(float(sums.sum())) * (1 - 1e-12)
    rng = np.random.default_rng(seed)
    total = float(sums.sum())
    extreme = 0
    for rows in _chunks(resamples, len(sums)):
        packed = np.frombuffer(rng.bytes(rows * -(-len(sums) // 8)), dtype=np.uint8).reshape(rows, -1)
        flipped = np.unpackbits(packed, axis=1, count=len(sums))
        extreme += int((np.abs(total - 2 * (flipped.astype(np.float64) @ sums)) >= observed).sum())
    return (extreme + 1) / (resamples + 1)


def _resampled_means(clusters: Clusters, resamples: int, rng: np.random.Generator) -> Floats:
    """Return means of clusters drawn with replacement.

    Equal clusters are drawn together: with right and wrong answers there are few kinds.
    """
    count = len(clusters.sums)
    kinds, numbers = np.unique(np.stack([clusters.sums, clusters.weights]), axis=1, return_counts=True)
    sums, weights = kinds
    if len(numbers) <= _MOST_KINDS:
        drawn = rng.multinomial(count, numbers / count, size=resamples)
        return np.asarray((drawn @ sums) / (drawn @ weights), dtype=np.float64)
    means = np.empty(resamples)
    done = 0
    has_equal_weights = bool((clusters.weights == clusters.weights[0]).all())
    for rows in _chunks(resamples, count):
        drawn = rng.integers(0, count, size=(rows, count), dtype=np.int32)
        below = count * clusters.weights[0] if has_equal_weights else clusters.weights[drawn].sum(axis=1)
        means[done : done + rows] = clusters.sums[drawn].sum(axis=1) / below
        done += rows
    return means


_MOST_KINDS = 64


def _chunks(resamples: int, width: int) -> Iterator[int]:
    """Yield numbers of rows that fit into memory."""
    rows = max(1, _CHUNK_CELLS // max(1, width))
    while resamples > 0:
        yield min(rows, resamples)
        resamples -= rows


def _t_quantile(share: float, freedom: int) -> float:
    """Return a quantile of Student's t: exact for 1 and 2, else the expansion of Abramowitz and Stegun, 26.7.5."""
    if freedom == 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom == 2:  # its closed form
        return (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    z = _NORMAL.inv_cdf(share)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4)
    )
