"""Metrics of a dataset's build, exported by its driver."""

from __future__ import annotations

from llamafarm_ray.capacity import is_connected
from llamafarm_ray.data.report import Stage, Tell
from llamafarm_ray.telemetry.catalog import DATA
from llamafarm_ray.telemetry.meters import Meters, RayMeters

__all__ = ["measured"]


def measured(dataset: str, tell: Tell | None, meters: Meters | None = None) -> Tell:
    """Return a listener for a build's stages that exports them, and passes them on.

    Args:
        tell: listener to pass the reports on to.
        meters: sink of the metrics; by default Ray's, once it is connected.
    """
    sink = meters

    def took(stage: Stage) -> None:
        nonlocal sink
        if sink is None and is_connected():
            sink = RayMeters(DATA)
        if sink is not None:
            labels = {"dataset": dataset, "stage": stage.name}
            sink.set("llamafarm_dataset_done", stage.done, labels)
            if stage.total is not None:
                sink.set("llamafarm_dataset_expected", stage.total, labels)
        if tell is not None:
            tell(stage)

    return took
