"""Machines that a cluster has or can have, for every decision that counts CPUs, GPUs or machines."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from llamafarm_ray.capacity.autoscaler import Limits, read_limits

__all__ = ["Machine", "is_connected", "is_on_one_machine", "machines", "total"]

_HEAD = "node:__internal_head__"
"""Resource by which Ray marks the head."""
_READ_S = 60.0


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of the connected cluster.

    Args:
        resources: as Ray counts them: ``CPU``, ``GPU``, ``memory`` and others.
        is_running: False if the autoscaler would start it.
    """

    resources: Mapping[str, float]
    is_running: bool = True


def is_connected() -> bool:
    """Return True if this process uses a Ray; a process that has not imported Ray uses none."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def machines() -> list[Machine]:
    """Return the machines that run, then those that the autoscaler may add to them, the ones with most GPUs first."""
    import ray  # after the environment that its parts read when they are imported

    nodes = [node for node in ray.nodes() if node["Alive"]]
    running = [Machine(node["Resources"]) for node in nodes]
    limits = _limits(nodes)
    return running + [Machine(one, is_running=False) for one in _startable(limits, running)]


def total(resource: str) -> float:
    """Return how much of a resource the machines have that run or may be started."""
    return float(sum(one.resources.get(resource, 0.0) for one in machines()))


def is_on_one_machine() -> bool:
    """Return True if Ray has no other machine than this one, and starts none."""
    return len(machines()) == 1


def _startable(limits: Limits, running: list[Machine]) -> list[Mapping[str, float]]:
    """Return the resources of each machine that may be added."""
    workers = [one.resources for one in running if _HEAD not in one.resources]
    room = None if limits.most is None else max(0, limits.most - len(workers))
    more: list[Mapping[str, float]] = []
    for kind in sorted(limits.types, key=lambda one: _size(one.resources), reverse=True):
        alike = [one for one in workers if _size(one) == _size(kind.resources)][: kind.most]
        for one in alike:  # kinds of the same size share the machines that run
            workers.remove(one)
        more += [kind.resources] * (kind.most - len(alike))
    return more[:room]


def _size(resources: Mapping[str, float]) -> tuple[float, float]:
    return float(resources.get("GPU", 0.0)), float(resources.get("CPU", 0.0))


class _Node(TypedDict):
    """Entries of ``ray.nodes()`` that are read here."""

    NodeID: str
    Resources: Mapping[str, float]


def _limits(nodes: list[_Node]) -> Limits:
    import ray  # as above

    head = next((node["NodeID"] for node in nodes if _HEAD in node["Resources"]), None)
    return Limits() if head is None else _limits_of(ray.get_runtime_context().gcs_address, head)


@functools.lru_cache(maxsize=8)
def _limits_of(gcs_address: str, head: str) -> Limits:
    """Return an autoscaler's limits; they last as long as its head does."""
    import ray  # as above
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if head == ray.get_runtime_context().get_node_id():
        return read_limits(gcs_address)
    read = ray.remote(num_cpus=0)(read_limits)
    place = NodeAffinitySchedulingStrategy(head, soft=False)
    return ray.get(read.options(scheduling_strategy=place).remote(gcs_address), timeout=_READ_S)  # type: ignore[no-any-return]
