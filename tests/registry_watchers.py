"""Watchers of a registry actor, for benchmarks: what they cost while nothing happens, and when all know of a move."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from model_files import store_note

from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import MoveAlias, Register
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind, ModelRef, Version

__all__ = ["Watched", "watch_moves"]

ARRIVE_S = 1.0
"""Time that all calls get to arrive at the actor."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What was measured.

    Attributes:
        idle: cores that the actor took while it had no news.
        delays_s: seconds until all watchers knew of an alias move, of each move.
        costs_s: core seconds that the actor took meanwhile.
        submit_s: seconds of a command through the actor while all watchers waited.
    """

    idle: float
    delays_s: list[float]
    costs_s: list[float]
    submit_s: float


def watch_moves(folder: Path, num_watchers: int, num_moves: int) -> Watched:
    """Move an alias past the real actor that so many watch, on a Ray of its own.

    Args:
        folder: for the home.
        num_watchers: that wait at a time.
        num_moves: of the alias.
    """
    import ray

    from llamafarm_ray.registry.remote.actor import registry_actor
    from llamafarm_ray.registry.remote.client import RegistryClient
    from llamafarm_ray.workflows.clusters.cluster import LOCAL, connect

    registry = RegistryService(Location(folder))
    manifest = store_note(registry.content, "note")
    for version in ("1.0.0", "1.1.0"):
        registry.submit(Register("bot", ModelKind.ADAPTER, manifest, 1, version))
    with connect(LOCAL):
        actor = registry_actor(str(folder))
        client = RegistryClient(str(folder))
        process = psutil.Process(ray.get(actor.pid.remote()))

        def watch(timeout_s: float) -> list[Any]:
            state = registry.refresh()
            call = functools.partial(actor.changes_after.remote, state.sequence, state.last_key, timeout_s)
            waiting = [call() for _ in range(num_watchers)]
            time.sleep(ARRIVE_S)
            return waiting

        ray.get(watch(0.0))  # Ray's first calls open its connections
        waiting = watch(3.0 + ARRIVE_S)
        began, cpu = time.perf_counter(), _cpu_s(process)
        time.sleep(2.0)
        idle = (_cpu_s(process) - cpu) / (time.perf_counter() - began)
        ray.get(waiting)
        delays, costs = [], []
        for number in range(num_moves):
            waiting = watch(60.0)
            began, cpu = time.perf_counter(), _cpu_s(process)
            registry.submit(MoveAlias(ModelRef("bot", version=Version(1, number % 2, 0)), "production"))
            ray.get(waiting)
            delays.append(time.perf_counter() - began)
            costs.append(_cpu_s(process) - cpu)
        waiting = watch(60.0)
        began = time.perf_counter()
        client.submit(MoveAlias(ModelRef("bot", version=Version(1, 0, 0)), "staging"))
        submit = time.perf_counter() - began
        ray.get(waiting)
    return Watched(idle, delays, costs, submit)


def _cpu_s(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))
