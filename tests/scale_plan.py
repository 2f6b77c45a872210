"""A plan for a large installation: what one of each component can do, the number of cells, and a simulation of a cell.

A cell is a Ray cluster with its own Serve controller, proxies, router and registry actor; all cells share one home.
"""

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass

import numpy as np

from llamafarm_ray.serving.routing.affinity import Affinity, _weight

__all__ = ["CellOutcome", "Constants", "Target", "cells_needed", "cores_needed", "place_adapters", "simulate_cell"]

HEADROOM = 0.5
"""Share of a component's capacity that is planned for: the rest is for peaks and for the loss of a cell."""


@dataclass(frozen=True)
class Target:
    """What the installation has to do.

    Args:
        nodes: nodes, a replica on each.
        adapters: adapters, asked for by Zipf's law.
        requests_per_s: requests a second.
        slots: adapters that a replica holds at once.
        exponent: exponent of Zipf's law.
    """

    nodes: int = 1000
    adapters: int = 10_000
    requests_per_s: float = 1_000_000 / 60
    slots: int = 64
    exponent: float = 1.0

    def shares(self) -> np.ndarray:
        """Share of the requests by adapter, the most popular first."""
        weights = 1.0 / np.arange(1, self.adapters + 1) ** self.exponent
        return weights / weights.sum()


@dataclass(frozen=True)
class Constants:
    """Measured costs of one request or call, in seconds of a core.

    Args:
        router_s: a decision of the router over HTTP, by the replicas that it chooses from.
        proxy_s: a request through HAProxy.
        watch_s: a second of one watcher at the registry actor, without news.
        exchange_s: one replica's exchange of limits at the controller, by the replicas of the application.
    """

    router_s: dict[int, float]
    proxy_s: float
    watch_s: float
    exchange_s: dict[int, float]


def interpolated(values: dict[int, float], at: float) -> float:
    """Return a measured cost at a number of replicas between or beyond those that were measured (a straight line)."""
    numbers = sorted(values)
    if at >= numbers[-1] and len(numbers) > 1:
        low, high = numbers[-2:]
        return values[high] + max(0.0, values[high] - values[low]) / (high - low) * (at - high)
    return float(np.interp(at, numbers, [values[number] for number in numbers]))


def cores_needed(target: Target, constants: Constants, cells: int) -> dict[str, float]:
    """Return the cores that each single-process component of one cell needs; more than 1 is too much for it."""
    nodes, rate = target.nodes / cells, target.requests_per_s / cells
    return {
        "router": rate * interpolated(constants.router_s, nodes),
        "haproxy": rate * constants.proxy_s,
        "registry actor": nodes * constants.watch_s,
        "limits at the controller": nodes * interpolated(constants.exchange_s, nodes),
    }


def cells_needed(target: Target, constants: Constants) -> int:
    """Return the fewest cells in which no component takes more than its planned share of a core."""
    for cells in range(1, target.nodes + 1):
        if max(cores_needed(target, constants, cells).values()) <= HEADROOM:
            return cells
    raise ValueError("no number of cells is enough: the router or HAProxy is too slow for one node's requests")


def place_adapters(target: Target, cells: int) -> list[dict[int, float]]:
    """Give each adapter its cells, by rendezvous hashing; return the share of all requests by adapter for each cell.

    A popular adapter is in as many cells as its share asks for, and its requests are shared out among them.
    """
    placed: list[dict[int, float]] = [{} for _ in range(cells)]
    names = [str(cell) for cell in range(cells)]
    for adapter, share in enumerate(target.shares()):
        number = min(cells, max(1, math.ceil(2 * cells * share)))
        ranking = sorted(range(cells), key=lambda cell, name=str(adapter): _weight(name, names[cell]))
        for cell in ranking[:number]:
            placed[cell][adapter] = share / number
    return placed


@dataclass(frozen=True)
class CellOutcome:
    """What a simulated cell did.

    Args:
        hit_share: share of the requests whose adapter was loaded where they went.
        loads_per_s: loads of adapters in a second, of all replicas of the cell.
        busiest: requests of the busiest replica over the mean.
        adapters: adapters of the cell.
    """

    hit_share: float
    loads_per_s: float
    busiest: float
    adapters: int


def simulate_cell(
    target: Target, placed: dict[int, float], replicas: int, *, requests: int, seed: int = 0
) -> CellOutcome:
    """Send requests through the real affinity router to replicas that keep the adapters they used last.

    Args:
        target: the installation.
        placed: share of all requests by adapter of this cell.
        replicas: replicas of the cell.
        requests: number of requests; the first fifth warms the slots up and is not counted.
        seed: of the draws.
    """
    adapters = np.array(list(placed))
    shares = np.array(list(placed.values()))
    rng = np.random.default_rng(seed)
    drawn = rng.choice(adapters, size=requests, p=shares / shares.sum())
    affinity, names = Affinity(), [f"replica-{number}" for number in range(replicas)]
    loaded: dict[str, OrderedDict[int, None]] = {name: OrderedDict() for name in names}
    counted: Counter[str] = Counter()
    misses = 0
    for number, adapter in enumerate(drawn.tolist()):
        name = affinity.pick(f"adapter-{adapter}:1.0.0", names)
        slots = loaded[name]
        is_hit = adapter in slots
        slots[adapter] = None
        slots.move_to_end(adapter)
        if len(slots) > target.slots:
            slots.popitem(last=False)
        if number >= requests // 5:
            counted[name] += 1
            misses += not is_hit
    total = sum(counted.values())
    rate = target.requests_per_s * float(shares.sum())
    busiest = max(counted.values()) * replicas / total
    return CellOutcome(1 - misses / total, rate * misses / total, busiest, len(adapters))
