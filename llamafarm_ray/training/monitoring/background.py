"""Work that a training step never waits for: whatever talks to a disk or a server that may be slow, or gone."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from llamafarm_ray.models.foreign import first_line

__all__ = ["Background"]

Item = TypeVar("Item")

_MAX_WAITING: Final = 10_000
_MAX_TAKEN: Final = 500


class Background(Generic[Item]):
    """A daemon thread that passes items on, in their order, to something that may fail or hang.

    When it fails, or is busy with one call for longer than ``timeout_s``, it is given up: said once, and
    from then on items are forgotten.

    Args:
        name: its name in messages: "MLflow".
        start: called in the thread; returns what takes items, several at once where several wait.
        timeout_s: the longest a single call may take.
        give_up: called once, from any thread, with a sentence that says why.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Callable[[list[Item]], None]],
        *,
        timeout_s: float,
        give_up: Callable[[str], None],
    ) -> None:
        self._name = name
        self._start = start
        self._timeout_s = timeout_s
        self._give_up = give_up
        self._queue: queue.Queue[Item | None] = queue.Queue(_MAX_WAITING)
        self._lock = threading.Lock()
        self._given_up = False
        self._busy_since: float | None = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"llamafarm-{name}", daemon=True)
        self._thread.start()

    @property
    def given_up(self) -> bool:
        """True once further items are dropped."""
        return self._given_up

    def put(self, item: Item) -> None:
        """Leave an item; never waits."""
        if self._given_up:
            return
        busy_since = self._busy_since
        if busy_since is not None and time.monotonic() - busy_since > self._timeout_s:
            self._stop(f"has not answered for {self._timeout_s:g} s")
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._stop(f"is {_MAX_WAITING} items behind")

    def close(self) -> None:
        """Say that no item follows; never waits."""
        if not self._given_up:
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                self._stop(f"is {_MAX_WAITING} items behind")

    def join(self, timeout_s: float | None = None) -> None:
        """After `close`: wait until everything is passed on, for as long as one call may take and no longer.

        Args:
            timeout_s: timeout in seconds, instead.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        if not self._given_up:
            self._thread.join(limit_s)
            if self._thread.is_alive():
                self._stop(f"did not finish within {limit_s:g} s")

    def _run(self) -> None:
        try:
            consume = self._start()
            self._busy_since = None
            ended = False
            while not ended and not self._given_up:
                items = self._take()
                ended = items[-1] is None
                self._busy_since = time.monotonic()
                consume([item for item in items if item is not None])
                self._busy_since = None
        except Exception as error:  # noqa: BLE001 - a library's or a server's trouble must not end the run
            self._stop(f"failed: {first_line(error)}")

    def _take(self) -> list[Item | None]:
        """One item or, where more wait, more; a None is the last."""
        items = [self._queue.get()]
        while items[-1] is not None and len(items) < _MAX_TAKEN:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return items

    def _stop(self, why: str) -> None:
        with self._lock:
            if self._given_up:
                return
            self._given_up = True
        self._give_up(f"{self._name} {why}; the run goes on without it.")
