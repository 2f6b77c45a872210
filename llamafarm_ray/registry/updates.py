"""Updates for watchers of a registry, packed once for all that have the same state."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from llamafarm_ray.registry.log import Commit
from llamafarm_ray.registry.log_watch import LogWatch
from llamafarm_ray.registry.service import RegistryService
from llamafarm_ray.registry.state import RegistryState

__all__ = ["Update", "UpdateFeed"]

_MAX_PACKED: Final = 8
"""Updates that are kept as bytes. A whole state can be large."""


@dataclass(frozen=True, slots=True)
class Update:
    """News for a watcher: the commits that it misses, or the whole state.

    Attributes:
        state: the whole state, where too many commits were missed or the watcher's state is of another log.
        is_replaced: another log was restored in place of the watcher's; ``state`` counts.
    """

    commits: tuple[Commit, ...] = ()
    state: RegistryState | None = None
    is_replaced: bool = False

    @classmethod
    def since(cls, service: RegistryService, sequence: int, last_key: str) -> Update:
        """Return the update for a watcher with this newest commit and key."""
        state, recent = service.state, list(service.recent)
        if sequence and state.commits_by_key.get(last_key) != sequence:
            return cls(state=state, is_replaced=True)
        missed = tuple(commit for commit in recent if commit.sequence > sequence)
        return cls(missed) if len(missed) >= state.sequence - sequence else cls(state=state)

    @property
    def is_empty(self) -> bool:
        """True if there is no news."""
        return not self.commits and self.state is None

    @classmethod
    def of_bytes(cls, data: bytes) -> Update:
        """Read an update that the actor sent."""
        update: Update = pickle.loads(data)  # noqa: S301 - from the actor; Ray itself would do the same
        return update

    def after(self, state: RegistryState) -> RegistryState:
        """Return the watcher's state with this taken in."""
        if self.state is not None and self.is_replaced:
            return self.state
        if self.state is not None:
            return self.state if self.state.sequence > state.sequence else state
        for commit in self.commits:
            if commit.sequence == state.sequence + 1:
                state = state.after(commit)
        return state


class UpdateFeed:
    """Updates as bytes: one goes to many watchers, and Ray would pack an object for each of them.

    Args:
        threads: executor that the log is read in.
        poll_s: seconds between two looks at the log while somebody waits.
    """

    def __init__(self, service: RegistryService, threads: Executor, poll_s: float) -> None:
        self._service = service
        self._watch = LogWatch(service.refresh, threads, poll_s)
        self._packed_since = lru_cache(_MAX_PACKED)(self._pack_since)

    async def after(self, sequence: int, last_key: str, timeout_s: float) -> bytes:
        """Return the news since a watcher's state as soon as there is any; an empty update when the time has passed.

        Args:
            sequence: the newest commit that the watcher has.
            last_key: the idempotency key of the last change in it.
            timeout_s: timeout in seconds.

        Raises:
            LlamaFarmError: the log can't be read.
        """
        deadline = time.monotonic() + timeout_s
        await self._watch.look()
        while True:
            data, is_empty = self._packed_since(sequence, last_key, self._service.state.sequence)
            left = deadline - time.monotonic()
            if not is_empty or left <= 0:
                return data
            await self._watch.wait(left)

    def announce(self) -> None:
        """Wake all who wait; from any thread, after a commit."""
        self._watch.announce()

    def _pack_since(self, sequence: int, last_key: str, _newest: int) -> tuple[bytes, bool]:
        """Return a watcher's update, and whether there is no news. It is kept while the newest commit stays."""
        update = Update.since(self._service, sequence, last_key)
        return pickle.dumps(update, protocol=pickle.HIGHEST_PROTOCOL), update.is_empty
