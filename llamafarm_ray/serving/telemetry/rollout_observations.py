"""Statistics of a rollout's two variants in time windows. Samples add up over replicas and over windows."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from llamafarm_ray.registry.state import RolloutRecord

__all__ = ["GROWTH", "Histogram", "Moments", "Observations", "Sample", "Window"]

GROWTH = 1.02
"""A latency bucket's upper end over its lower end, so a quantile is off by 2 percent at most."""
_SHORTEST_S = 1e-4


@dataclass(frozen=True, slots=True)
class Histogram:
    """Latencies in buckets that grow geometrically: DDSketch without a limit (Masson, Rim and Lee, VLDB 2019).

    Attributes:
        counts: number of latencies in each bucket; bucket ``n`` holds those above ``GROWTH**(n-1)`` up to ``GROWTH**n``
            seconds.
    """

    counts: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, latencies_s: Iterable[float]) -> Histogram:
        """Return a histogram of latencies in seconds; those below 0.1 ms count as 0.1 ms."""
        seconds = np.fromiter(latencies_s, dtype=np.float64)
        buckets = np.ceil(np.log(np.maximum(seconds, _SHORTEST_S)) / math.log(GROWTH)).astype(int)
        return cls(Counter(buckets.tolist()))

    @staticmethod
    def bucket(latency_s: float) -> int:
        """The bucket of one latency in seconds."""
        return math.ceil(math.log(max(latency_s, _SHORTEST_S)) / math.log(GROWTH))

    @property
    def count(self) -> int:
        """Number of latencies in the histogram."""
        return sum(self.counts.values())

    @property
    def logarithms(self) -> Moments:
        """The moments of the latencies' natural logarithms."""
        scale = math.log(GROWTH)
        return Moments(
            self.count,
            sum(count * bucket * scale for bucket, count in self.counts.items()),
            sum(count * (bucket * scale) ** 2 for bucket, count in self.counts.items()),
        )

    def bucket_of(self, quantile: float) -> int:
        """The bucket that holds a quantile (0 to 1). There must be latencies."""
        wanted, seen = quantile * self.count, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return bucket
        raise ValueError("an empty histogram has no quantiles")

    def quantile_s(self, quantile: float) -> float:
        """The latency in seconds that a share ``quantile`` (0 to 1) does not exceed; 0 where there is none."""
        return GROWTH ** self.bucket_of(quantile) if self.counts else 0.0

    def count_above(self, bucket: int) -> int:
        """Return the number of latencies in higher buckets."""
        return sum(count for number, count in self.counts.items() if number > bucket)

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(Counter(self.counts) + Counter(other.counts))


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares of some numbers."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Moments:
        """The moments of these numbers."""
        numbers = list(values)
        return cls(len(numbers), math.fsum(numbers), math.fsum(number * number for number in numbers))

    @property
    def mean(self) -> float:
        """Their mean; 0 where there are none."""
        return self.total / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Their variance around the mean; 0 where there are none."""
        return max(self.squares / self.count - self.mean**2, 0.0) if self.count else 0.0

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True, slots=True)
class Sample:
    """Statistics of one variant.

    Attributes:
        requests: number of ended requests, failed ones included; without client errors (4xx) and requests given up.
        errors: number of failed requests: a 5xx, or an answer that broke off.
        latencies: of those that did not fail, from their turn at the engine to the last token: how long they waited
            for it says nothing of the version.
        ratings: users' ratings of answers, from 0 to 1.
    """

    requests: int = 0
    errors: int = 0
    latencies: Histogram = field(default_factory=Histogram)
    ratings: Moments = field(default_factory=Moments)

    @property
    def error_rate(self) -> float:
        """The share of requests that failed; 0 where there were none."""
        return self.errors / self.requests if self.requests else 0.0

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            self.requests + other.requests,
            self.errors + other.errors,
            self.latencies + other.latencies,
            self.ratings + other.ratings,
        )


@dataclass(frozen=True, slots=True)
class Window:
    """Statistics of both variants from ``start`` to ``end``; in a shadow rollout the candidate is the shadow."""

    start: dt.datetime
    end: dt.datetime
    baseline: Sample
    candidate: Sample


class Observations(Protocol):
    """Source of windows: replicas report to it, and it outlives the controller."""

    async def windows(self, rollout: RolloutRecord, after: dt.datetime) -> Sequence[Window]:
        """The windows of a rollout that ended after a time, oldest first, no request in two of them.

        A window that is given out is complete: nothing is added to it later.
        """
