"""Conditions of a commit: a store that honours exclusive creates, and a clock that agrees with the store's."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

from llamafarm_ray.errors import StorageError
from llamafarm_ray.storage import Location
from llamafarm_ray.storage.probes import check_exclusive, store_time

__all__ = ["MAX_CLOCK_DIFFERENCE", "Preconditions", "utc_now"]

MAX_CLOCK_DIFFERENCE = dt.timedelta(minutes=10)
"""Clocks of writers and stores may differ by this much."""


def utc_now() -> dt.datetime:
    """Return the time by this machine's clock."""
    return dt.datetime.now(dt.UTC)


class Preconditions:
    """Checks a writer and its store before each commit, at the cost of a comparison.

    The store is probed before the first commit. From then on its time is the probed one plus what passed since, by a
    clock that can't be set. If this machine's clock differs, the store is asked again before a commit is refused.

    Args:
        home: home for commits.
    """

    def __init__(self, home: Location, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._home = home
        self._clock = clock
        self._is_probed = False
        self._offset: dt.timedelta | None = None
        """The store's time less the time that has passed; ``None`` if the store reports no time."""

    def check(self) -> None:
        """Check that a commit may be written now.

        Raises:
            StorageError: the store ignores conditional writes, this machine's clock is not the store's, or the store
                can't be written.
        """
        if not self._is_probed:
            self._take(check_exclusive(self._home) or store_time(self._home))
            self._is_probed = True
        if self._differs():
            self._take(store_time(self._home))
            self._refuse_if_it_differs()

    def _take(self, told: dt.datetime | None) -> None:
        self._offset = told - dt.datetime.fromtimestamp(0, dt.UTC) - _passed() if told is not None else None

    def _store_now(self) -> dt.datetime | None:
        if self._offset is None:
            return None
        return dt.datetime.fromtimestamp(0, dt.UTC) + self._offset + _passed()

    def _differs(self) -> bool:
        there = self._store_now()
        return there is not None and abs(self._clock() - there) > MAX_CLOCK_DIFFERENCE

    def _refuse_if_it_differs(self) -> None:
        here, there = self._clock(), self._store_now()
        if there is None or not self._differs():
            return
        raise StorageError(
            f"Nothing was committed: this machine's clock says {here:%Y-%m-%d %H:%M} UTC, and that of {self._home.uri} "
            f"{there:%Y-%m-%d %H:%M}.",
            hint="Commits would be dated wrongly. Set the clock that is wrong (NTP does), then try again.",
        )


def _passed() -> dt.timedelta:
    """Return the time that has passed since some point, also while the machine slept."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return dt.timedelta(seconds=time.clock_gettime(clock) if clock is not None else time.monotonic())
