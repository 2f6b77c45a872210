"""A run's spans: groups of steps, validations and checkpoints, parts of the driver's span."""

from __future__ import annotations

import time

from llamafarm_ray.telemetry.traces import Spans, Value
from llamafarm_ray.training.result import Progress

__all__ = ["RunTraces"]

_STEPS = 100
_SECONDS = 60.0


class RunTraces:
    """Takes in what a run does. A span has at most 100 steps, and about a minute of them.

    Args:
        spans: tracer of this process.
        labels: ``model`` and ``run``.
    """

    def __init__(self, spans: Spans, labels: dict[str, str]) -> None:
        self._spans = spans
        self._labels = {f"llamafarm.{name}": value for name, value in labels.items()}
        self._group: list[Progress] = []
        self._since = self._last = time.monotonic()

    def step(self, progress: Progress) -> None:
        """A step is done."""
        self._group.append(progress)
        self._last = time.monotonic()
        if len(self._group) >= _STEPS or self._last - self._since >= _SECONDS:
            self._end_group()

    def validation(self, loss: float, step: int) -> None:
        """The validation loss was measured, since the last step."""
        self._end_group()
        seconds = time.monotonic() - self._last
        attributes: dict[str, Value] = {**self._labels, "llamafarm.step": step, "llamafarm.validation_loss": loss}
        self._spans.past("validation", seconds, attributes)
        self._since = self._last = time.monotonic()

    def checkpoint(self, step: int, seconds: float) -> None:
        """A checkpoint is written."""
        self._end_group()
        self._spans.past("checkpoint", seconds, {**self._labels, "llamafarm.step": step})
        self._since = self._last = time.monotonic()

    def close(self) -> None:
        """Send what is not sent yet, for two seconds at most."""
        self._end_group()
        self._spans.close()

    def _end_group(self) -> None:
        """Record the steps since the last group; they ended with the last step."""
        if not self._group:
            return
        first, last = self._group[0], self._group[-1]
        attributes: dict[str, Value] = {
            **self._labels,
            "llamafarm.first_step": first.step,
            "llamafarm.last_step": last.step,
            "llamafarm.loss": last.loss,
            "llamafarm.tokens_per_s": last.tokens_per_s,
        }
        self._spans.past("steps", self._last - self._since, attributes, ended_s=time.monotonic() - self._last)
        self._group = []
        self._since = self._last
