"""Strategies that divide the work between workers, one a file."""

from __future__ import annotations

from llamafarm_ray.training.strategies.base import LossScale, ParameterState, Place, Strategy
from llamafarm_ray.training.strategies.choice import choose_strategy
from llamafarm_ray.training.strategies.ddp import DdpStrategy
from llamafarm_ray.training.strategies.single import SingleStrategy

__all__ = ["LossScale", "ParameterState", "Place", "Strategy", "choose_strategy", "find_strategy"]


def find_strategy(name: str) -> type[Strategy]:
    """The strategy of that name in ``fine_tuning.distributed.strategy``."""
    strategies: dict[str, type[Strategy]] = {"single": SingleStrategy, "ddp": DdpStrategy}
    if name in strategies:
        return strategies[name]
    # DeepSpeed looks for accelerators and prints while it is imported: only where it is used, on the workers.
    from llamafarm_ray.training.strategies.deepspeed import ZERO_STAGES

    return ZERO_STAGES[name]
