"""Recent requests and loaded versions of a replica, for ``models status`` and for choosing a model by latency."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from llamafarm_ray.serving.telemetry.outcome import End
from llamafarm_ray.serving.telemetry.rollout_observations import Histogram, Sample
from llamafarm_ray.serving.telemetry.rollout_windows import Tally

__all__ = ["MINUTE_S", "Activity", "RecentRequests", "Seen", "joined"]

MINUTE_S: Final = 60
_LATEST: Final = 200
"""Latencies kept of a version, so that a version without recent requests is still known."""
_MAX_VERSIONS: Final = 1000


@dataclass(frozen=True, slots=True)
class Seen:
    """Statistics of one version.

    Attributes:
        minute: its requests that ended in the last minute.
        latest: the latencies of the last 200 that were answered, whenever that was.
    """

    minute: Sample = field(default_factory=Sample)
    latest: Histogram = field(default_factory=Histogram)

    @property
    def requests_per_s(self) -> float:
        """Requests a second, over the last minute."""
        return self.minute.requests / MINUTE_S

    @property
    def minute_latency_ms(self) -> float | None:
        """The 95th percentile of the last minute's latencies in milliseconds; ``None`` where there are none."""
        return _p95_ms(self.minute.latencies)

    @property
    def latency_ms(self) -> float | None:
        """The 95th percentile of the latest latencies in milliseconds; ``None`` where there are none."""
        return _p95_ms(self.latest)

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.minute + other.minute, self.latest + other.latest)


@dataclass(frozen=True, slots=True)
class Activity:
    """Statistics of a replica.

    Attributes:
        loaded: the engine names of the versions that are ready, sorted.
        num_waiting: requests that wait for their turn at the engine.
        seen: its requests by version, ``name:version`` or the base's name.
        kinds: the requests that its engine answers, see :mod:`llamafarm_ray.serving.selection.catalog`.
    """

    base_model: str
    loaded: tuple[str, ...] = ()
    num_waiting: int = 0
    seen: Mapping[str, Seen] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()


def _p95_ms(latencies: Histogram) -> float | None:
    return 1000 * latencies.quantile_s(0.95) if latencies.counts else None


def joined(activities: Iterable[Activity]) -> dict[str, Seen]:
    """Return the merged statistics of several replicas, by version."""
    found: dict[str, Seen] = {}
    for activity in activities:
        for ref, seen in activity.seen.items():
            found[ref] = found.get(ref, Seen()) + seen
    return found


@dataclass(slots=True)
class _Version:
    """The seconds of the last minute in which a version's requests ended, and its latest latencies."""

    seconds: dict[int, Tally] = field(default_factory=dict)
    latest: deque[int] = field(default_factory=lambda: deque(maxlen=_LATEST))

    def forget(self, now: int) -> None:
        """Drop the seconds that are more than a minute ago."""
        for second in [second for second in self.seconds if second <= now - MINUTE_S]:
            del self.seconds[second]


class RecentRequests:
    """Counts requests by version. Of more than 1,000 versions those that were asked last are known.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._versions: OrderedDict[str, _Version] = OrderedDict()

    def add(self, ref: str, end: End, latency_s: float) -> None:
        """Count a request that the engine finished; clients' mistakes and cancelled requests are left out.

        Args:
            ref: version that answered, ``name:version`` or the base's name.
        """
        if end in {End.REFUSED, End.CANCELLED}:
            return
        version = self._versions.setdefault(ref, _Version())
        self._versions.move_to_end(ref)
        if len(self._versions) > _MAX_VERSIONS:
            self._versions.popitem(last=False)
        second = int(self._clock())
        if second not in version.seconds:
            version.forget(second)
        version.seconds.setdefault(second, Tally()).count(end, latency_s)
        if end is End.ANSWERED:
            version.latest.append(Histogram.bucket(latency_s))

    def seen(self) -> dict[str, Seen]:
        """Return the statistics of each version."""
        now = int(self._clock())
        found = {}
        for ref, version in self._versions.items():
            version.forget(now)
            minute = Tally()
            for tally in version.seconds.values():
                minute.take_in(tally)
            found[ref] = Seen(minute.sample(), Histogram(Counter(version.latest)))
        return found
