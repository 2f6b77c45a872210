"""Search for the highest rate that keeps its objectives."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from llamafarm_ray.evaluation.load.outcomes import Summary
from llamafarm_ray.evaluation.load.targets import Target

__all__ = ["Capacity", "Limits", "Probe", "find_capacity"]

RESOLUTION: Final = 1.1
"""The search ends when the rate that failed is less than this many times the one that held."""
_REQUESTS_BEYOND: Final = 3
"""A percentile is judged by a probe with this many requests beyond it, or more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a search.

    Args:
        min_rate: requests a second; below it nothing is tried.
        max_rate: requests a second; above it nothing is tried.
        duration_s: length of a probe, at least; a low rate takes longer to show a percentile.
        budget_s: time for all probes.
    """

    min_rate: float = 0.1
    max_rate: float = 1000.0
    duration_s: float = 15.0
    budget_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Probe:
    """Traffic of one rate, and its outcome."""

    rate: float
    duration_s: float
    holds: bool
    values: dict[str, float | None]
    num_requests: int

    def to_dict(self) -> dict[str, object]:
        """Return the probe for JSON."""
        return {
            "rate": self.rate,
            "duration_s": self.duration_s,
            "holds": self.holds,
            "values": self.values,
            "num_requests": self.num_requests,
        }


@dataclass(frozen=True, slots=True)
class Capacity:
    """Result of a search.

    Args:
        highest_rate: the highest rate that kept all objectives; None if none did.
        failed_at: the lowest rate that did not; None if all did.
        ended_because: reason for the end of the search.
        probes: in their order.
    """

    highest_rate: float | None
    failed_at: float | None
    ended_because: str
    probes: list[Probe] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Return the result for JSON."""
        return {
            "highest_rate": self.highest_rate,
            "failed_at": self.failed_at,
            "ended_because": self.ended_because,
            "probes": [probe.to_dict() for probe in self.probes],
        }


def find_capacity(
    probe: Callable[[float, float], Summary],
    targets: Sequence[Target],
    *,
    start_rate: float,
    limits: Limits,
    on_probe: Callable[[Probe], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Capacity:
    """Bracket the highest rate by doubling and halving, then bisect (on the logarithm of the rate).

    Args:
        probe: sends traffic at a rate for so many seconds and returns its figures.
        targets: objectives, all of which have to hold.
        start_rate: requests a second of the first probe.
        limits: bounds of the search.
        on_probe: told of each probe.
        clock: seconds, never going back.
    """
    end_s = clock() + limits.budget_s
    probes: list[Probe] = []
    held: float | None = None
    failed: float | None = None
    rate = min(max(start_rate, limits.min_rate), limits.max_rate)
    while True:
        duration_s = max(limits.duration_s, _needed(targets) / rate)
        if probes and clock() + duration_s > end_s:
            return Capacity(held, failed, "the time is over", probes)
        # The first probe may take all of the time, and no more.
        duration_s = min(duration_s, limits.budget_s)
        summary = probe(rate, duration_s)
        values = {target.spelling: target.value(summary) for target in targets}
        holds = all(target.holds(summary) for target in targets)
        probes.append(Probe(rate, duration_s, holds, values, summary.num_requests))
        if on_probe is not None:
            on_probe(probes[-1])
        held, failed = (rate, failed) if holds else (held, rate)
        if failed is None and rate >= limits.max_rate:
            return Capacity(held, failed, "the highest rate to try holds", probes)
        if held is None and rate <= limits.min_rate:
            return Capacity(held, failed, "the lowest rate to try does not hold", probes)
        if held is not None and failed is not None and failed / held < RESOLUTION:
            return Capacity(held, failed, "the rate is known", probes)
        rate = _next(held, failed, limits)


def _needed(targets: Sequence[Target]) -> float:
    """Return the number of requests that a probe needs."""
    shares = [target.allowed_share for target in targets if target.allowed_share > 0]
    return _REQUESTS_BEYOND / min(shares, default=1.0)


def _next(held: float | None, failed: float | None, limits: Limits) -> float:
    if failed is None:
        return min((held or limits.min_rate) * 2, limits.max_rate)
    if held is None:
        return max(failed / 2, limits.min_rate)
    return math.sqrt(held * failed)
