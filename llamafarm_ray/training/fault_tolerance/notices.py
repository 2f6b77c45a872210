"""Preemption notices: that a machine of the run will be taken away soon."""

from __future__ import annotations

import time

import ray.train

__all__ = ["Notices"]

_EACH_S = 2.0
"""Seconds between two checks. A check takes a round of messages between all workers; Ray looks every 5 seconds."""


class Notices:
    """Preemption notices of Ray Train, as one worker reads them."""

    def __init__(self) -> None:
        self._heeded: object = None
        self._asked_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Return True if it is time to check again."""
        return time.monotonic() - self._asked_at > _EACH_S

    def is_there_a_new_one(self) -> bool:
        """Return True if there is a new notice. All workers must call this after the same step."""
        notice = ray.train.get_preemption_info()
        is_new = notice is not None and notice != self._heeded
        self._heeded, self._asked_at = notice, time.monotonic()
        return is_new
