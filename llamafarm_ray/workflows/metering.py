"""Meters of trainings, sweeps and builds, for the ledger in the registry's home."""

from __future__ import annotations

from llamafarm_ray.config import Config
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.usage import Meter, Work, gpu_name
from llamafarm_ray.types import ModelRef

__all__ = ["meter_of"]


def meter_of(config: Config, registry: RegistryApi, work: Work, *, name: str | None = None) -> Meter:
    """Return the meter of a piece of work. The namespace is that of the configuration's ``name``.

    Args:
        config: configuration of the work.
        registry: its home has the ledger.
        work: the kind of work.
        name: the dataset or model; ``name`` of the configuration by default.
    """
    return Meter(registry.home, ModelRef(config.name).namespace, name or config.name, work, gpu=_cluster_gpu)


def _cluster_gpu() -> str:
    """Return the type of the connected cluster's GPUs."""
    import ray  # builds from rows need none

    return gpu_name(ray.cluster_resources())
