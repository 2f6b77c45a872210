"""How many adapters there is room for in an engine."""

from __future__ import annotations

from typing import NamedTuple

from llamafarm_ray.config import Deployment
from llamafarm_ray.config.deployment import EngineName
from llamafarm_ray.serving.adapters.protocols import Room

__all__ = ["Slots", "room_of", "vllm_slots", "whole_number"]

_SPARE = 1
"""Slots beyond ``deployment.max_loras``, for a version that takes another's place."""
_LOADED_PER_SLOT = 4
"""Adapters in host memory for each slot: one that comes back from there costs a copy, one from the files a load."""


class Slots(NamedTuple):
    """How many adapters vLLM computes with at once (its ``max_loras``), and has in memory (``max_cpu_loras``)."""

    used: int
    loaded: int


def vllm_slots(deployment: Deployment) -> Slots:
    """What vLLM is started with; its own options say so where they are given."""
    given = deployment.engine_kwargs
    slots = whole_number(given.get("max_loras")) or deployment.max_loras + _SPARE
    return Slots(slots, whole_number(given.get("max_cpu_loras")) or _LOADED_PER_SLOT * slots)


def room_of(deployment: Deployment, engine: EngineName) -> Room:
    """What a replica keeps to."""
    wait_s = deployment.limits.queue_timeout_s
    if engine != "vllm":  # what is loaded there is all that there is of it, and may be large
        return Room(deployment.max_loras, deployment.max_loras + _SPARE, wait_s)
    slots = vllm_slots(deployment)
    return Room(max(1, slots.used - _SPARE), slots.loaded, wait_s)


def whole_number(value: object) -> int | None:
    """An option's value, if it is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
