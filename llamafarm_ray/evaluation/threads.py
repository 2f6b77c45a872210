"""CPU threads of a worker: Ray gives a process that asks for one CPU one thread, even on an idle machine."""

from __future__ import annotations

import importlib
import os

import ray

__all__ = ["share_of_cores", "use_share_of_cores"]


def share_of_cores(num_workers: int, num_cores: int) -> int:
    """Return the threads of each worker where they share one machine: more threads than cores wait for each other."""
    return max(1, num_cores // num_workers)


def use_share_of_cores(num_workers: int) -> None:
    """Let torch, and engines that this process starts, use this worker's share of the machine's cores.

    Args:
        num_workers: workers of the evaluation. They may all be on this machine.
    """
    threads = share_of_cores(num_workers, _num_cores())
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch = importlib.import_module("torch")  # here, so that whoever starts workers needs no torch
    torch.set_num_threads(threads)


def _num_cores() -> int:
    """Return the cores that this process may use, and that Ray counts on this machine."""
    allowed = len(os.sched_getaffinity(0))
    if not ray.is_initialized():
        return allowed
    here = ray.get_runtime_context().get_node_id()
    counted = (node["Resources"].get("CPU", allowed) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, min(allowed, int(next(counted, allowed))))
