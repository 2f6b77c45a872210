"""How rank 0 tells the driver about steps, and the driver tells the workers to stop.

``ray.train.report`` is a barrier between all workers that takes more than a second, so it is kept for checkpoints.
"""

from __future__ import annotations

import time
from typing import Any

import ray

from llamafarm_ray.errors import LlamaFarmError, TrainingError
from llamafarm_ray.training.result import Progress

__all__ = ["ProgressChannel", "ProgressReporter"]


class ProgressChannel:
    """A mailbox; made an actor by the driver, and held in the hand by tests."""

    def __init__(self) -> None:
        self._steps: list[Progress] = []
        self._failure: LlamaFarmError | None = None
        self._stopped = False

    def put(self, steps: list[Progress]) -> bool:
        """Leave steps for the driver. Returns whether the run shall stop."""
        self._steps += steps
        return self._stopped

    def take(self) -> list[Progress]:
        """The steps since the last call."""
        steps, self._steps = self._steps, []
        return steps

    def stop(self) -> None:
        """Ask the workers to stop."""
        self._stopped = True

    def fail(self, error: LlamaFarmError) -> None:
        """Record why the run can't succeed, however often it is tried. The first reason stands."""
        self._failure = self._failure or error

    def failure(self) -> LlamaFarmError | None:
        """What `fail` recorded."""
        return self._failure


class ProgressReporter:
    """Rank 0's end of the channel: collects steps and sends them every ``interval_s`` seconds.

    Args:
        channel: handle of a `ProgressChannel` actor.
        interval_s: how long steps are held back.
    """

    def __init__(self, channel: Any, interval_s: float) -> None:
        self._channel = channel
        self._interval_s = interval_s
        self._held: list[Progress] = []
        self._sent_at = time.monotonic()
        self._answer: Any = None

    def step(self, progress: Progress) -> None:
        """Note a step, and send what has gathered when it is time.

        Raises:
            TrainingError: the driver asked the run to stop.
        """
        self._held.append(progress)
        if time.monotonic() - self._sent_at < self._interval_s:
            return
        # The answer to the message before has long arrived, so a step never waits for the driver's machine.
        if self._answer is not None and ray.get(self._answer):
            raise TrainingError(f"The run was stopped after step {progress.step}.")
        self._send()

    def flush(self) -> None:
        """Send the rest and wait until it has arrived."""
        self._send()
        ray.get(self._answer)

    def _send(self) -> None:
        self._answer = self._channel.put.remote(self._held)
        self._held = []
        self._sent_at = time.monotonic()
