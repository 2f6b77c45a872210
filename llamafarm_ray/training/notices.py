"""Preemption notices: that a machine of the run will be taken away soon."""

from __future__ import annotations

import time

import ray.train

__all__ = ["Notices"]

_EACH_S = 2.0
"""How often to ask. It takes a round of messages between all workers, and Ray itself looks every 5 seconds."""


class Notices:
    """What Ray Train knows of machines that will go; one for each worker."""

    def __init__(self) -> None:
        self._heeded: object = None
        self._asked_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask again."""
        return time.monotonic() - self._asked_at > _EACH_S

    def is_there_a_new_one(self) -> bool:
        """Whether there is a notice that was not told of before. All workers must call it after the same step."""
        notice = ray.train.get_preemption_info()
        is_new = notice is not None and notice != self._heeded
        self._heeded, self._asked_at = notice, time.monotonic()
        return is_new
