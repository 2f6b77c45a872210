"""Check of a run's memory against its devices, with alternatives that fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from llamafarm_ray.errors import UnsupportedError, UserError
from llamafarm_ray.training.estimate.memory import MemoryEstimate, estimate_memory
from llamafarm_ray.training.estimate.setup import Setup
from llamafarm_ray.training.estimate.shape import ModelShape

__all__ = ["MARGIN", "Alternative", "check_fits", "find_alternatives", "verdict"]

Verdict = Literal["fits", "tight", "too large"]

MARGIN = 0.15
"""Greatest relative error of estimates. Runs that exceed the memory by less are let through."""
_GIB = 1024**3
_MOST_CHANGES = 3
_MOST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Alternative:
    """A run that fits.

    Args:
        changes: dotted keys of the configuration, and the values that fit.
    """

    changes: dict[str, object]
    setup: Setup
    memory: MemoryEstimate

    def __str__(self) -> str:
        settings = ", ".join(f"{key} {_word(value)}" for key, value in self.changes.items())
        return f"{settings} ({_gib(self.memory.total)})"


@dataclass(frozen=True, slots=True)
class _Change:
    """Something that lowers memory, by the key that says so."""

    key: str
    value: object
    fields: dict[str, object]


def verdict(memory: MemoryEstimate, memory_bytes: int) -> Verdict:
    """Return the verdict: fits with `MARGIN` to spare, tight, or too large."""
    if memory.total * (1 + MARGIN) <= memory_bytes:
        return "fits"
    return "tight" if memory.total * (1 - MARGIN) <= memory_bytes else "too large"


def check_fits(shape: ModelShape, setup: Setup, memory_bytes: int) -> MemoryEstimate:
    """Return a run's memory, if it may fit.

    Args:
        memory_bytes: memory of one worker's device; on CPUs its share of the free memory.

    Returns:
        The estimate; compare it with ``memory_bytes`` by `verdict` to say that it will be tight.

    Raises:
        UserError: it needs more than there is, even if the estimate is `MARGIN` too high. The message names need and
            have, the hint what would fit.
    """
    memory = estimate_memory(shape, setup)
    if verdict(memory, memory_bytes) != "too large":
        return memory
    device = "GPU" if setup.device == "cuda" else "worker"
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.logits,
        "buffers": memory.buffers,
    }
    largest = sorted(parts, key=lambda name: parts[name], reverse=True)[:2]
    described = " and ".join(f"{_gib(parts[name])} for {name}" for name in largest)
    alternatives = find_alternatives(shape, setup, memory_bytes)
    raise UserError(
        f"Method {setup.method} of {shape.name} with strategy {setup.strategy} needs about {_gib(memory.total)} on "
        f"each {device}, which has {_gib(memory_bytes)}: {described}, in micro-batches of {setup.batch_size} x "
        f"{setup.max_length} tokens.",
        hint="It would fit with " + "; or ".join(map(str, alternatives)) + "."
        if alternatives
        else f"Nothing that could be changed makes it fit: use a smaller base model, or a {device} with more memory.",
    )


def find_alternatives(shape: ModelShape, setup: Setup, memory_bytes: int) -> list[Alternative]:
    """Runs that fit: the fewest changes first, none of them more than is needed.

    Args:
        setup: a run that does not fit.
        memory_bytes: memory of one worker's device.
    """
    found: list[Alternative] = []
    changes = list(_changes(setup))
    for number in range(1, _MOST_CHANGES + 1):
        for chosen in combinations(changes, number):
            keys = {change.key: change.value for change in chosen}
            if len(keys) < number or any(_includes(keys, other) for other in found):
                continue
            fields = {name: value for change in chosen for name, value in change.fields.items()}
            changed = dataclasses.replace(setup, **fields)  # type: ignore[arg-type]
            try:
                memory = estimate_memory(shape, changed)
            except UnsupportedError:
                continue  # the two can't be combined
            offloads = changed.offload == "none" or changed.zero_stage > 1
            if offloads and verdict(memory, memory_bytes) == "fits":
                found.append(Alternative(keys, changed, memory))
                if len(found) == _MOST_SHOWN:
                    return found
    return found


def _includes(keys: dict[str, object], other: Alternative) -> bool:
    """Return True if these changes contain an accepted run's, or are the same ones taken further."""
    return other.changes.items() <= keys.items() or other.changes.keys() == keys.keys()


def _changes(setup: Setup) -> Iterator[_Change]:
    """Yield settings that could be lowered, the cheapest first."""
    training, distributed = "fine_tuning.training", "fine_tuning.distributed"
    if not setup.gradient_checkpointing and setup.method != "prefix_tuning":
        yield _Change(f"{training}.gradient_checkpointing", value=True, fields={"gradient_checkpointing": True})
    size = setup.batch_size
    while size > 1:
        size //= 2
        share = size / setup.batch_size
        accumulated = setup.gradient_accumulation_steps * -(-setup.batch_size // size)
        yield _Change(
            f"{training}.batch_size",
            size,
            {
                "batch_size": size,
                "tokens_per_batch": round(setup.tokens * share),
                "logit_positions": round(setup.positions * share),
                "gradient_accumulation_steps": accumulated,
            },
        )
    if setup.num_workers > 1 and setup.zero_stage < 3 and setup.method != "qlora":  # DeepSpeed's stage
        yield _Change(f"{distributed}.strategy", "deepspeed_zero3", {"strategy": "deepspeed_zero3"})
    if setup.method == "full":
        yield _Change("fine_tuning.method", "lora", {"method": "lora"})
    if setup.method != "qlora":
        strategy = "deepspeed_zero2" if setup.zero_stage == 3 else setup.strategy  # as above
        yield _Change("fine_tuning.method", "qlora", {"method": "qlora", "strategy": strategy})
    if setup.offload == "none" and setup.device == "cuda" and setup.num_workers > 1 and setup.method != "qlora":
        yield _Change(f"{distributed}.offload", "cpu", {"offload": "cpu"})


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2g} GiB" if num_bytes < 10 * _GIB else f"{num_bytes / _GIB:,.0f} GiB"
