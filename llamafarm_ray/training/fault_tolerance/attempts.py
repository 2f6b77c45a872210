"""Retries: the decision if Ray Train starts the workers again. Its controller imports this, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import ray
from ray.train import UserCallback

if TYPE_CHECKING:
    from ray.actor import ActorHandle

__all__ = ["EndOfAttempts"]


class EndOfAttempts(UserCallback):  # type: ignore[misc]  # ray has no types
    """Asks the channel, each time that workers were lost, whether another start can help, and ends the run if not.

    So an error of the run's own comes at once, and workers that die before they can say anything are not started for
    ever.

    Args:
        channel: handle of a `ProgressChannel` actor.
    """

    def __init__(self, channel: ActorHandle) -> None:
        self._channel = channel

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """Called by the controller; what it raises ends the run."""
        del run_context, worker_exceptions
        failure = ray.get(self._channel.lost.remote())
        if failure is not None:
            raise failure
