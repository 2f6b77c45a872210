"""Number of trials that fit a cluster at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Node", "TrialNeeds", "num_concurrent"]

_DATA_CPUS = 1.0
"""Left for tokenising the rows of the next trial, which must not wait for one that trains to end."""


@dataclass(frozen=True, slots=True)
class Node:
    """Resources of one machine.

    Args:
        num_cpus: as Ray counts them.
        num_gpus: likewise.
    """

    num_cpus: float
    num_gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class TrialNeeds:
    """Resources of one trial; its driver takes nothing.

    Args:
        num_workers: training processes.
        num_cpus: of each.
        num_gpus: of each.
    """

    num_workers: int
    num_cpus: float
    num_gpus: float = 0.0


def num_concurrent(nodes: Sequence[Node], needs: TrialNeeds, *, most: int | None = None) -> int:
    """Return the number of trials that run at once without waiting for workers that another trial holds.

    A worker lies on one machine, a trial's workers may be spread. At least one: a single trial may use all there is, as
    a training without a sweep does.

    Args:
        nodes: the cluster's machines.
        most: no more than these, if given.
    """
    places = [_workers_on(node, needs) for node in nodes]
    spare = max(
        (node.num_cpus - count * needs.num_cpus for node, count in zip(nodes, places, strict=True)), default=0.0
    )
    total = sum(places)
    if spare < _DATA_CPUS and needs.num_cpus > 0:
        total -= math.ceil((_DATA_CPUS - spare) / needs.num_cpus - 1e-9)
    found = max(1, total // needs.num_workers)
    return found if most is None else min(found, most)


def _workers_on(node: Node, needs: TrialNeeds) -> int:
    limits = [
        math.floor(has / needed + 1e-9)
        for has, needed in ((node.num_cpus, needs.num_cpus), (node.num_gpus, needs.num_gpus))
        if needed > 0
    ]
    return min(limits, default=0)
