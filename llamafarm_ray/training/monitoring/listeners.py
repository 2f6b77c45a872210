"""Listeners of a run that belong to its process: log, metrics and traces."""

from __future__ import annotations

import logging
from typing import Self

from llamafarm_ray.telemetry.traces import Spans
from llamafarm_ray.training.monitoring.history import History
from llamafarm_ray.training.monitoring.run_meters import Devices, RunMeters, open_run_meters
from llamafarm_ray.training.monitoring.run_traces import RunTraces
from llamafarm_ray.training.result import Progress

__all__ = ["RunListeners"]

_log = logging.getLogger(__name__)


class RunListeners:
    """Tells log, metrics and traces of a run."""

    def __init__(self, meters: RunMeters, traces: RunTraces) -> None:
        self._meters = meters
        self._traces = traces
        self.moved = meters.moved
        self.alert = meters.alert

    @classmethod
    def open(
        cls, name: str, history: History, devices: Devices, steps_done: int, traces: tuple[str | None, str]
    ) -> Self:
        """Open both.

        Args:
            name: the run's, for people.
            history: of earlier attempts.
            steps_done: the step that this attempt goes on from.
            traces: URL that spans are sent to, or None, and the driver's span.
        """
        meters = open_run_meters(
            name,
            history.run_id,
            devices,
            total_steps=history.total_steps,
            steps_done=steps_done,
            seconds_done=history.steps[-1].seconds if history.steps else 0.0,
        )
        return cls(meters, RunTraces(Spans(*traces), {"model": name, "run": history.run_id}))

    def step(self, progress: Progress) -> None:
        """A step is done."""
        self._meters.step(progress)
        self._traces.step(progress)

    def validation(self, loss: float, step: int) -> None:
        """The validation loss was measured."""
        _log.info("The validation loss after step %d is %.6g.", step, loss)
        self._meters.validation(loss)
        self._traces.validation(loss, step)

    def checkpoint(self, step: int, seconds: float) -> None:
        """A checkpoint is written."""
        _log.info("A checkpoint after step %d was written in %.2f s.", step, seconds)
        self._meters.checkpoint(seconds)
        self._traces.checkpoint(step, seconds)

    def close(self) -> None:
        """Remove the run's gauges and send its spans, within two seconds."""
        self._meters.close()
        self._traces.close()
