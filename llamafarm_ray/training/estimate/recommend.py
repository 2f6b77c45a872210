"""Recommendations of training setups for some hardware, each with its batch and its memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llamafarm_ray.config import METHODS
from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.training.estimate.duration import DurationEstimate, estimate_duration
from llamafarm_ray.training.estimate.fit import verdict
from llamafarm_ray.training.estimate.machine import Machine
from llamafarm_ray.training.estimate.memory import MemoryEstimate, estimate_memory
from llamafarm_ray.training.estimate.setup import Setup
from llamafarm_ray.training.estimate.shape import ModelShape
from llamafarm_ray.training.estimate.tables import Tables

__all__ = ["Option", "recommend"]

_MOST_ROWS = 64
_ENOUGH_TOKENS = 16_384
"""Tokens of a micro-batch beyond which a device gains little: larger ones are accumulated instead."""


@dataclass(frozen=True, slots=True)
class Option:
    """A way to train.

    Args:
        setup: the run, with the batch that was found for it.
    """

    setup: Setup
    memory: MemoryEstimate
    duration: DurationEstimate

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        setup = self.setup
        return {
            "method": setup.method,
            "strategy": setup.strategy,
            "offload": setup.offload,
            "num_workers": setup.num_workers,
            "precision": setup.precision,
            "batch_size": setup.batch_size,
            "gradient_checkpointing": setup.gradient_checkpointing,
            "memory": self.memory.to_dict(),
            **self.duration.to_dict(),
        }


def recommend(shape: ModelShape, setup: Setup, machine: Machine, tables: Tables, *, num_tokens: int) -> list[Option]:
    """For each method and strategy that fits, the run with the largest useful batch; the fastest first.

    Without gradient checkpointing where a batch fits, since it computes a third more; with it where not.

    Args:
        setup: settings shared by all runs: precision, length, number of workers.
        tables: assumed figures.
    """
    options = []
    for method in METHODS:
        found = [_largest(shape, run, machine, tables, num_tokens) for run in _runs(setup, method, offload="none")]
        if not any(found):
            found = [_largest(shape, run, machine, tables, num_tokens) for run in _runs(setup, method, offload="cpu")]
        options += [option for option in found if option is not None]
    # Among equals, the plainer strategy: it was tried first.
    return sorted(options, key=lambda option: option.duration.seconds)


def _runs(setup: Setup, method: str, *, offload: str) -> list[Setup]:
    """A method with each strategy; offloading costs so much time that it is for what fits in no other way."""
    if offload == "none":
        strategies = ["single"] if setup.num_workers == 1 else ["ddp", "deepspeed_zero2", "deepspeed_zero3"]
    else:
        strategies = ["deepspeed_zero3"] if setup.device == "cuda" and setup.num_workers > 1 else []
    return [dataclasses.replace(setup, method=method, strategy=name, offload=offload) for name in strategies]


def _largest(shape: ModelShape, setup: Setup, machine: Machine, tables: Tables, num_tokens: int) -> Option | None:
    share = setup.positions / setup.tokens
    for checkpointing in (False, True):
        size = _MOST_ROWS
        while size >= 1:
            tokens = size * setup.max_length
            run = dataclasses.replace(
                setup,
                batch_size=size,
                tokens_per_batch=None,
                logit_positions=round(tokens * share),
                gradient_checkpointing=checkpointing,
            )
            try:
                memory = estimate_memory(shape, run)
            except UnsupportedError:
                return None
            useful = size == 1 or tokens <= _ENOUGH_TOKENS
            if useful and verdict(memory, machine.memory_bytes) == "fits":
                duration = estimate_duration(shape, run, machine, tables, num_tokens=num_tokens)
                return Option(run, memory, duration)
            size //= 2
    return None
