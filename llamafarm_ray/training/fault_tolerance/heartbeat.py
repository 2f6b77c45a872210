"""A worker's signs of life, sent by a thread of its own while the main one computes or waits for other workers."""

from __future__ import annotations

import os
import socket
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray

from llamafarm_ray.training.fault_tolerance.channel import Beat

if TYPE_CHECKING:
    from ray.actor import ActorHandle

__all__ = ["Heartbeat"]

_INTERVAL_S = 2.0
_EXIT_STATUS = 70  # EX_SOFTWARE
_FEWEST = 3
"""Steps before the time that one takes says anything: the first ones compile and allocate."""


class Heartbeat:
    """Tells the channel what this worker does, and ends its process when told that the run stands still.

    A worker that waits for another in a collective can't be woken, so ending its process is the only way out; Ray Train
    then starts all of them again from the last checkpoint.

    Args:
        channel: handle of a `ProgressChannel` actor.
    """

    def __init__(self, channel: ActorHandle, attempt: int, rank: int) -> None:
        self._channel = channel
        self._attempt = attempt
        self._rank = rank
        self._where = f"process {os.getpid()} on {socket.gethostname()}"
        self._doing = "loading"
        self._slow = True
        self._step = 0
        self._moved_at = time.monotonic()
        self._times: deque[float] = deque(maxlen=50)
        self._longest_s = 0.0
        self._ended = threading.Event()
        self.stop_asked = False
        """True if the run has to stop after a step."""
        self._thread = threading.Thread(target=self._run, name="llamafarm-heartbeat", daemon=True)
        self._thread.start()

    def moved(self, doing: str, step: int | None = None) -> None:
        """The worker got on: it ended a step, or a batch of a validation.

        Args:
            doing: its present activity.
            step: steps done, where that has changed.
        """
        now = time.monotonic()
        if step is not None and not self._slow:
            self._times.append(now - self._moved_at)
            self._longest_s = max(self._longest_s, self._times[-1])
        self._doing, self._moved_at, self._slow = doing, now, False
        self._step = self._step if step is None else step

    def touch(self) -> None:
        """The worker got on with work of no usual length."""
        self._moved_at = time.monotonic()

    @contextmanager
    def slow(self, doing: str) -> Iterator[None]:
        """Around work of no usual length: loading, a checkpoint."""
        before = self._doing, self._slow
        self._doing, self._slow, self._moved_at = doing, True, time.monotonic()
        yield
        (self._doing, self._slow), self._moved_at = before, time.monotonic()

    def close(self) -> None:
        """Send no more."""
        self._ended.set()

    def _run(self) -> None:
        answer = None
        while not self._ended.wait(_INTERVAL_S):
            usual = statistics.median(self._times) if len(self._times) >= _FEWEST and not self._slow else None
            beat = Beat(
                self._rank,
                self._where,
                self._doing,
                self._step,
                time.monotonic() - self._moved_at,
                usual,
                not self._slow,
                self._longest_s,
            )
            try:
                order = "go on" if answer is None else ray.get(answer, timeout=_INTERVAL_S * 5)
                if order == "end":
                    os._exit(_EXIT_STATUS)
                self.stop_asked = order == "stop"
                answer = self._channel.beat.remote(self._attempt, beat)
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayError:  # the driver is gone; Ray ends this process
                return
