"""Per-replica rollout statistics in time windows that are kept until the rollout is over.

A window is a second long. Once it is a minute old it is joined with its neighbors to 64 seconds, and these after an
hour or two to 4096: a year of a rollout takes 8,000 windows, and where they begin and end is the same on each replica.
"""

from __future__ import annotations

import datetime as dt
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from llamafarm_ray.serving.routing.traffic_split import Variant
from llamafarm_ray.serving.telemetry.outcome import End
from llamafarm_ray.serving.telemetry.rollout_observations import Histogram, Sample, Window

__all__ = ["Report", "RolloutWindows", "Tally"]

_WIDTHS_S: Final = (1, 64, 4096)


@dataclass(frozen=True, slots=True)
class Report:
    """Report of a replica on one rollout.

    Attributes:
        until: the windows up to here are complete.
        windows: those of them that were asked for, oldest first; there are none without requests.
    """

    until: dt.datetime
    windows: tuple[Window, ...]


@dataclass(slots=True)
class Tally:
    """A sample that grows."""

    requests: int = 0
    errors: int = 0
    latencies: Counter[int] = field(default_factory=Counter)

    def count(self, end: End, latency_s: float) -> None:
        """Count a request, unless the client made a mistake or went away."""
        if end in {End.REFUSED, End.CANCELLED}:
            return
        self.requests += 1
        if end is End.FAILED:
            self.errors += 1
        else:
            self.latencies[Histogram.bucket(latency_s)] += 1

    def take_in(self, other: Tally) -> None:
        """Add another."""
        self.requests += other.requests
        self.errors += other.errors
        self.latencies.update(other.latencies)

    def sample(self) -> Sample:
        """Return the present totals as a sample."""
        return Sample(self.requests, self.errors, Histogram(Counter(self.latencies)))


@dataclass(slots=True)
class _Pair:
    """Both sides of a rollout in one window."""

    baseline: Tally = field(default_factory=Tally)
    candidate: Tally = field(default_factory=Tally)

    def take_in(self, other: _Pair) -> None:
        self.baseline.take_in(other.baseline)
        self.candidate.take_in(other.candidate)


class RolloutWindows:
    """Counts requests by rollout, variant and time.

    Args:
        under_way: gives the ids of the rollouts under way; what was seen of others is dropped when a new one begins.
        clock: seconds since 1970. If it goes back, the time stays the same until it has caught up.
    """

    def __init__(self, under_way: Callable[[], Collection[str]], clock: Callable[[], float] = time.time) -> None:
        self._under_way = under_way
        self._clock = clock
        self._now_s = 0.0
        self._rollouts: dict[str, dict[tuple[int, int], _Pair]] = {}

    def add(self, rollout: str, variant: Variant, end: End, latency_s: float) -> None:
        """Count a request that the engine finished, unless the client made a mistake or went away.

        Args:
            variant: variant of the request; a shadow's is the candidate's.
        """
        if end in {End.REFUSED, End.CANCELLED}:
            return
        windows = self._rollouts.get(rollout)
        if windows is None:
            known = {*self._under_way(), rollout}
            self._rollouts = {name: kept for name, kept in self._rollouts.items() if name in known}
            windows = self._rollouts[rollout] = {}
        second = int(self._now())
        if (1, second) not in windows:
            _join(windows, second)
        pair = windows.setdefault((1, second), _Pair())
        (pair.baseline if variant is Variant.BASELINE else pair.candidate).count(end, latency_s)

    def report(self, rollout: str, after: dt.datetime) -> Report:
        """The complete windows of a rollout that end after a time; nothing is added to them later."""
        until = int(self._now())
        windows = self._rollouts.get(rollout, {})
        _join(windows, until)
        found = (
            Window(_time(start), _time(start + width), pair.baseline.sample(), pair.candidate.sample())
            for (width, start), pair in windows.items()
            if after.timestamp() < start + width <= until
        )
        return Report(_time(until), tuple(sorted(found, key=lambda window: window.start)))

    def _now(self) -> float:
        self._now_s = max(self._now_s, self._clock())
        return self._now_s


def _join(windows: dict[tuple[int, int], _Pair], now_s: int) -> None:
    """Join the windows of each width that are old enough."""
    for fine, coarse in itertools.pairwise(_WIDTHS_S):
        for width, start in [key for key in windows if key[0] == fine]:
            joined = start - start % coarse
            if joined + 2 * coarse <= now_s:
                windows.setdefault((coarse, joined), _Pair()).take_in(windows.pop((width, start)))


def _time(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
