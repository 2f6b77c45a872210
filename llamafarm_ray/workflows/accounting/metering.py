"""Meters of trainings, sweeps, evaluations and builds, for the ledger in the registry's home."""

from __future__ import annotations

from llamafarm_ray.registry.usage import Meter, Work, gpu_name
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelRef

__all__ = ["meter_of"]


def meter_of(home: Location, work: Work, model: str, *, name: str = "") -> Meter:
    """Return the meter of a piece of work.

    Args:
        model: the model's name, whose namespace counts.
        name: the dataset or folder that the work is of, if not the model.
    """
    return Meter(home, ModelRef(model).namespace, name or model, work, gpu=_cluster_gpu)


def _cluster_gpu() -> str:
    """Return the type of the connected cluster's GPUs."""
    import ray  # builds from rows need none

    return gpu_name(ray.cluster_resources())
