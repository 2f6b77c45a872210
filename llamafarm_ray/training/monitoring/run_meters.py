"""A run's metrics for Prometheus, exported by its first worker."""

from __future__ import annotations

import resource
import sys
import threading
import time
from dataclasses import dataclass

import ray
import torch

from llamafarm_ray.telemetry.catalog import TRAINING
from llamafarm_ray.telemetry.meters import Meters, RayMeters
from llamafarm_ray.training.result import Progress

__all__ = ["Devices", "RunMeters", "open_run_meters", "peak_memory_bytes"]


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices that a run computes on.

    Args:
        name: of the processor: ``cpu``, or a GPU's.
        count: number of workers, each with one.
    """

    name: str = "cpu"
    count: int = 1


class RunMeters:
    """Takes in what a run does.

    Args:
        meters: sink of the metrics; None: nobody asks for them.
        labels: ``model``, the name of the configuration, and ``run``, its id.
        steps_done: optimizer steps done by earlier attempts.
        seconds_done: seconds that those took.

    Attributes:
        ended: set when the run's gauges are to go.
    """

    def __init__(
        self,
        meters: Meters | None,
        labels: dict[str, str],
        devices: Devices,
        *,
        total_steps: int,
        steps_done: int = 0,
        seconds_done: float = 0.0,
    ) -> None:
        self._meters = meters
        self._labels = labels
        self._devices = devices
        self._seconds = seconds_done
        self._moved = time.monotonic()
        self.ended = threading.Event()
        self._set("total_steps", total_steps)
        self._set("step", steps_done)

    def step(self, progress: Progress) -> None:
        """A step is done."""
        seconds, self._seconds = max(0.0, progress.seconds - self._seconds), progress.seconds
        self.moved()
        self._set("step", progress.step)
        self._set("loss", progress.loss)
        self._set("learning_rate", progress.learning_rate)
        self._set("tokens_per_second", progress.tokens_per_s)
        self._set("memory_bytes", progress.memory_bytes or 0)
        if seconds > 0 and self._meters is not None:
            self._meters.add("llamafarm_training_tokens_total", progress.tokens_per_s * seconds, self._labels)
            devices = {**self._labels, "device": self._devices.name}
            self._meters.add("llamafarm_training_device_seconds_total", seconds * self._devices.count, devices)

    def validation(self, loss: float) -> None:
        """The validation loss was measured."""
        self._set("validation_loss", loss)

    def checkpoint(self, seconds: float) -> None:
        """A checkpoint is written."""
        if self._meters is not None:
            self._meters.observe("llamafarm_training_checkpoint_seconds", seconds, self._labels)

    def alert(self, kind: str) -> None:
        """An alert was raised."""
        if self._meters is not None:
            self._meters.add("llamafarm_training_alerts_total", 1, {**self._labels, "kind": kind})

    def moved(self) -> None:
        """The run got on, with a step or with other work."""
        self._moved = time.monotonic()

    def refresh(self) -> None:
        """Set how long the run has not got on."""
        self._set("idle_seconds", time.monotonic() - self._moved)

    def close(self) -> None:
        """Remove the run's gauges."""
        self.ended.set()

    def _set(self, name: str, value: float) -> None:
        if self._meters is not None:
            self._meters.set(f"llamafarm_training_{name}", float(value), self._labels)


def open_run_meters(
    name: str, run_id: str, devices: Devices, *, total_steps: int, steps_done: int, seconds_done: float
) -> RunMeters:
    """Return the meters of a run, which go nowhere in a process without Ray."""
    meters = RayMeters(TRAINING) if ray.is_initialized() else None
    labels = {"model": name, "run": run_id}
    made = RunMeters(meters, labels, devices, total_steps=total_steps, steps_done=steps_done, seconds_done=seconds_done)
    if meters is not None:
        meters.keep_gauges_until(made.ended, made.refresh)
    return made


def peak_memory_bytes() -> int:
    """The most memory this process has held: on its GPU if it uses one, else resident (``getrusage``)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
