"""The check that a run goes through before its workers start."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from llamafarm_ray.errors import UserError
from llamafarm_ray.training.estimate.fit import check_fits, verdict
from llamafarm_ray.training.estimate.machine import available_memory_bytes
from llamafarm_ray.training.estimate.memory import MemoryEstimate, estimate_memory
from llamafarm_ray.training.estimate.setup import Setup
from llamafarm_ray.training.estimate.shape import ModelShape

__all__ = ["check_before_start"]

_GIB = 1024**3


def check_before_start(
    base_model: Path, setup: Setup, *, gpu_memory_bytes: int, num_nodes: int, reasons: list[str]
) -> MemoryEstimate | None:
    """Refuse a run that can't fit, and say of one that will be tight that it will.

    Refused is only what can't fit even with few trained tokens and fused kernels, so that no run is held up wrongly.
    Runs that can't be estimated are accepted: models of unknown shape, and CPU workers on several machines, whose
    memory is not known here.

    Args:
        gpu_memory_bytes: memory of one GPU; unused on CPUs.
        num_nodes: machines of the cluster.
        reasons: gets a sentence where it will be tight.

    Returns:
        The estimate, if there is one.

    Raises:
        UserError: it can't fit; see `check_fits`.
    """
    try:
        shape = ModelShape.of_folder(base_model)
        memory_bytes = gpu_memory_bytes
        if setup.device == "cpu":
            memory_bytes = available_memory_bytes() // setup.num_workers if num_nodes == 1 else 0
    except UserError:
        return None
    if memory_bytes <= 0:
        return None
    least = dataclasses.replace(setup, logit_positions=0, fused_kernels=setup.device == "cuda")
    check_fits(shape, least, memory_bytes)
    memory = estimate_memory(shape, setup)
    if verdict(memory, memory_bytes) != "fits":
        reasons.append(
            f"Memory will be tight: each worker needs about {memory.total / _GIB:.1f} GiB of {memory_bytes / _GIB:.1f}."
        )
    return memory
