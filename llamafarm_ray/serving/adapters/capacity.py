"""Capacity of an engine: the number of adapters in use and in memory."""

from __future__ import annotations

from typing import NamedTuple

from llamafarm_ray.config import Deployment
from llamafarm_ray.config.sections.deployment import EngineName
from llamafarm_ray.serving.adapters.protocols import Room

__all__ = ["Slots", "room_of", "vllm_slots", "whole_number"]

_SPARE = 1
"""Slots beyond ``deployment.max_loras``, for a version that takes another's place."""
_LOADED_PER_SLOT = 4
"""Adapters in host memory for each slot: one that comes back from there costs a copy, one from the files a load."""


class Slots(NamedTuple):
    """Adapters that vLLM computes with at once (its ``max_loras``) and keeps in memory (``max_cpu_loras``)."""

    used: int
    loaded: int


def vllm_slots(deployment: Deployment) -> Slots:
    """Return the slots vLLM starts with. Its own options in ``engine_kwargs`` take precedence."""
    given = deployment.engine_kwargs
    slots = whole_number(given.get("max_loras")) or deployment.max_loras + _SPARE
    return Slots(slots, whole_number(given.get("max_cpu_loras")) or _LOADED_PER_SLOT * slots)


def room_of(deployment: Deployment, engine: EngineName) -> Room:
    """Return the number of adapters that a replica may use and load."""
    wait_s = deployment.limits.queue_timeout_s
    if engine != "vllm":  # what is loaded there is all that there is of it, and may be large
        return Room(deployment.max_loras, deployment.max_loras + _SPARE, wait_s)
    slots = vllm_slots(deployment)
    return Room(max(1, slots.used - _SPARE), slots.loaded, wait_s)


def whole_number(value: object) -> int | None:
    """An option's value, if it is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
