"""Group commit: callers whose commands wait for one shared commit.

The first caller in an empty line leads: they commit what waits, and hand the lead to the first who came meanwhile. So
sixteen callers pay for one write to disk, not sixteen.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence

from llamafarm_ray.errors import StorageError
from llamafarm_ray.registry.api import Outcome
from llamafarm_ray.registry.commands import Command
from llamafarm_ray.registry.identity import Identity

__all__ = ["Line", "Waiting"]

_MAX_CHANGES_A_COMMIT = 256


class Waiting:
    """A caller whose command is to be committed."""

    def __init__(self, command: Command, identity: Identity, reason: str, key: str | None) -> None:
        self.command = command
        self.identity = identity
        self.reason = reason
        self.key = key or uuid.uuid4().hex
        self.keeps_key = key is not None
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.called = threading.Event()
        """Set when it is done, or when it is this caller's turn to commit what waits."""

    @property
    def is_done(self) -> bool:
        """True if its outcome is known."""
        return self.outcome is not None or self.error is not None

    def result(self) -> Outcome:
        """Return its outcome, or raise its error."""
        if self.error is not None:
            raise self.error
        if self.outcome is None:
            raise AssertionError("the command was not committed, and no error said why")
        return self.outcome


class Line:
    """Callers in the order in which they came.

    Args:
        commit: sets the outcome or the error of each of a batch.
    """

    def __init__(self, commit: Callable[[Sequence[Waiting]], None]) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._waiting: list[Waiting] = []
        self._is_led = False

    def run(self, waiting: Waiting) -> Outcome:
        """Stand in line until the command is done."""
        with self._lock:
            self._waiting.append(waiting)
            leads, self._is_led = not self._is_led, True
        try:
            if not leads:
                waiting.called.wait()
            if not waiting.is_done:
                self._lead()
        except BaseException:  # Ctrl-C, at any point
            self._withdraw(waiting, leads=leads)
            raise
        return waiting.result()

    def _withdraw(self, waiting: Waiting, *, leads: bool) -> None:
        """Take a caller who went away out of the line; was it their turn, it is the next one's."""
        with self._lock:
            if waiting not in self._waiting:
                return
            self._waiting.remove(waiting)
            following = None
            if leads or waiting.called.is_set():
                self._is_led = bool(self._waiting)
                following = self._waiting[0] if self._waiting else None
        if following is not None:
            following.called.set()

    def _lead(self) -> None:
        """Commit what waits, the caller's own command first in it; then it is the turn of who came meanwhile."""
        batch = self._next_batch()
        try:
            self._commit(batch)
        except Exception as error:  # noqa: BLE001  (whoever waits must be told, whatever it was)
            for waiting in batch:
                waiting.error = waiting.error or error
        except BaseException as error:  # Ctrl-C ends this caller; the others hear of it
            for waiting in batch:
                waiting.error = waiting.error or StorageError(f"The commit was cut off: {error!r}.", hint="Try again.")
            raise
        finally:
            with self._lock:
                self._is_led = bool(self._waiting)
                following = self._waiting[0] if self._waiting else None
            for waiting in batch[1:]:
                waiting.called.set()
            if following is not None:
                following.called.set()

    def _next_batch(self) -> list[Waiting]:
        """Return the waiting commands in order; of several with one idempotency key only the first, for all of them."""
        with self._lock:
            by_key: dict[str, Waiting] = {}
            for waiting in self._waiting[:_MAX_CHANGES_A_COMMIT]:
                by_key.setdefault(waiting.key, waiting)
            batch = list(by_key.values())
            self._waiting = [waiting for waiting in self._waiting if waiting is not by_key.get(waiting.key)]
        return batch
