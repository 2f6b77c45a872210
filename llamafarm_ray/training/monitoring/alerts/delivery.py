"""Alerts on their way: each channel has a thread, so that a broken one holds up neither the run nor the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from llamafarm_ray.models.foreign import first_line
from llamafarm_ray.training.monitoring.alerts.channels import Channel, Notice
from llamafarm_ray.training.monitoring.background import Background

__all__ = ["Delivery"]

_TIMEOUT_S: Final = 60.0


class Delivery:
    """Hands notices to channels.

    Args:
        warn: called from any thread with a sentence, when a channel stops working.
        timeout_s: the longest that one notice may take on a channel, all attempts together.
    """

    def __init__(
        self, channels: Iterable[Channel], *, warn: Callable[[str], None], timeout_s: float = _TIMEOUT_S
    ) -> None:
        self._warn = warn
        self._lines = [self._open(channel, timeout_s) for channel in channels]

    def send(self, notice: Notice) -> None:
        """Pass a notice on; never waits."""
        for line in self._lines:
            line.put(notice)

    def close(self) -> None:
        """Say that none follows; never waits."""
        for line in self._lines:
            line.close()

    def join(self, timeout_s: float) -> None:
        """After `close`: wait until all are delivered, or given up."""
        for line in self._lines:
            line.join(timeout_s)

    def _open(self, channel: Channel, timeout_s: float) -> Background[Notice]:
        broken = False

        def deliver(notices: list[Notice]) -> None:
            nonlocal broken
            for notice in notices:
                try:
                    channel.send(notice)
                    broken = False
                except OSError as error:
                    if not broken:  # said once; the next alert is tried all the same
                        self._warn(f"An alert could not be sent by {channel.name}: {first_line(error)}.")
                    broken = True

        return Background(f"alerts by {channel.name}", lambda: deliver, timeout_s=timeout_s, give_up=self._warn)
