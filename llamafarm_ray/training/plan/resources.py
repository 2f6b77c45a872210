"""Resources of the cluster, and of each worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llamafarm_ray.capacity import Machine, machines
from llamafarm_ray.config import Distributed
from llamafarm_ray.errors import ClusterError, UserError
from llamafarm_ray.models.processor import cpu_has_bf16
from llamafarm_ray.training.methods.auto import Hardware

__all__ = ["WorkerResources", "choose_precision", "choose_workers", "count_devices", "find_hardware"]

_LEAST_CPUS = 0.5
_INSPECTION_S = 120.0
"""Seconds until a GPU is free and a process on it has imported torch from a cold network disk."""
_START_S = 1800.0
"""Seconds until the autoscaler has started a machine with a GPU and set it up."""


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """Number of workers, and the resources that Ray reserves for each.

    Args:
        num_workers: training processes, the most.
        min_workers: the fewest; the same unless the run is elastic.
        num_cpus: CPUs of each.
        use_gpu: True if each has a GPU.
    """

    num_workers: int
    num_cpus: float
    use_gpu: bool
    min_workers: int = 0


def count_devices() -> Hardware:
    """Return the CPUs and GPUs that the caller's Ray cluster has or may start, without a look at any of them.

    Raises:
        ClusterError: the caller has not connected to Ray.
    """
    if not ray.is_initialized():
        raise ClusterError("Ray is not running in this process.", hint="Call ray.init() first.")
    return _devices(machines())


def _devices(found: list[Machine]) -> Hardware:
    num_gpus = int(sum(one.resources.get("GPU", 0.0) for one in found))
    return Hardware(num_cpus=sum(one.resources.get("CPU", 0.0) for one in found), num_gpus=num_gpus)


def find_hardware(gpus_of_one: int = 1, note: Callable[[str], None] | None = None) -> Hardware:
    """Return the hardware that the caller's Ray cluster has or may start.

    A task inspects a GPU, which it needs for a moment. Where no machine with a GPU has room, the autoscaler starts one
    for it: the machine is there for the training then.

    Args:
        gpus_of_one: GPUs that the machine must have where machines can be started, or as many as any has.
        note: called with the reason for a wait.

    Raises:
        ClusterError: the caller has not connected to Ray, or no GPU was to be had for two minutes, or half an hour
            where a machine must start.
    """
    devices = count_devices()
    if devices.num_gpus == 0:
        return replace(devices, has_bf16=_nodes_have_bf16())
    found = machines()
    can_start = any(one.resources.get("GPU") for one in found if not one.is_running)
    must_start = not any(one.resources.get("GPU") for one in found if one.is_running)
    largest = int(max(one.resources.get("GPU", 0.0) for one in found))
    if must_start and note is not None:
        note("No machine with a GPU runs: the autoscaler is asked for one, which takes minutes.")
    wait_s = _START_S if can_start else _INSPECTION_S  # those that run may be in use, by a deployment for one
    inspection = ray.remote(num_gpus=min(gpus_of_one, largest) if can_start else 1, num_cpus=0)(_inspect_gpu).remote()
    try:
        memory, has_bf16 = ray.get(inspection, timeout=wait_s)
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(inspection, force=True)
        raise _no_gpu(devices.num_gpus, wait_s, can_start=can_start) from error
    return replace(devices, gpu_memory_bytes=memory, has_bf16=has_bf16)


def _no_gpu(num_gpus: int, wait_s: float, *, can_start: bool) -> ClusterError:
    if can_start:
        return ClusterError(
            f"The autoscaler did not start a machine with a GPU within {wait_s:.0f} s.",
            hint="`ray status` shows what it tried. Does the cloud have such machines, and this account a quota?",
        )
    return ClusterError(
        f"None of the cluster's GPUs ({num_gpus}) could be looked at within {wait_s:.0f} s.",
        hint="Others hold them, as `ray status` shows. Try again when one is free.",
    )


def _nodes_have_bf16() -> bool:
    """Return True if the CPUs of every node multiply matrices in bf16. Machines that are yet to start may not."""
    if not all(one.is_running for one in machines() if one.resources.get("CPU")):
        return False
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if nodes == [ray.get_runtime_context().get_node_id()]:
        return cpu_has_bf16()
    inspection = ray.remote(num_cpus=0)(cpu_has_bf16)
    places = (NodeAffinitySchedulingStrategy(node, soft=True) for node in nodes)
    return all(ray.get([inspection.options(scheduling_strategy=place).remote() for place in places]))


def _inspect_gpu() -> tuple[int, bool]:
    return torch.cuda.get_device_properties(0).total_memory, torch.cuda.is_bf16_supported(including_emulation=False)


def choose_workers(distributed: Distributed, hardware: Hardware) -> WorkerResources:
    """Workers as configured (one by default), and for each a CPU, or less where one must be left for data.

    Raises:
        UserError: the cluster is too small for the number of workers.
    """
    num_workers = distributed.num_workers or 1
    if distributed.gpus is not None and hardware.num_gpus == 0:
        raise UserError(
            f"fine_tuning.distributed.gpus is {distributed.gpus}, but the cluster has no GPU.",
            hint="Remove it, or set fine_tuning.distributed.workers to train on CPUs.",
        )
    needed = distributed.min_workers or num_workers
    if 0 < hardware.num_gpus < needed:
        raise UserError(
            f"{needed} workers need a GPU each, but the cluster has {hardware.num_gpus}.",
            hint="Lower fine_tuning.distributed.workers.",
        )
    num_cpus = distributed.cpus_per_worker or max(_LEAST_CPUS, min(1.0, (hardware.num_cpus - 1) / num_workers))
    if needed * num_cpus > hardware.num_cpus:
        raise UserError(
            f"{needed} workers need {num_cpus:g} CPU each, but the cluster has {hardware.num_cpus:g}.",
            hint="Lower fine_tuning.distributed.workers, or add nodes.",
        )
    return WorkerResources(num_workers, num_cpus, use_gpu=hardware.num_gpus > 0, min_workers=needed)


def choose_precision(configured: str, hardware: Hardware, *, is_half: bool) -> str:
    """Return the number format: as configured, or the one that the devices compute fast and without loss.

    GPUs that have bf16 use it, older ones fp16 with a scaled loss. CPUs that have it use bf16 for weights that are
    kept in 16 bits, and fp32 for all others.

    Args:
        configured: ``auto`` or a format.
        is_half: True if the base model's weights are kept in bf16 or fp16.
    """
    if configured != "auto":
        return configured
    if hardware.num_gpus == 0:
        return "bf16" if hardware.has_bf16 and is_half else "fp32"
    return "bf16" if hardware.has_bf16 else "fp16"
