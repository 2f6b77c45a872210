"""Options of the engines that trials choose among: threads, KV cache, batches, attention.

Each alternative is an option of ``deployment.engine_kwargs``, or a number of threads. vLLM has one attention backend on
a CPU, and chooses it itself on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llamafarm_ray.serving.optimize.speed import Option, SpeedEngine

__all__ = ["THREADS", "Axis", "Goal", "axes_of", "spelled"]

THREADS = "threads"
"""The axis of CPU threads, which is no option of ``engine_kwargs``."""

Goal = Literal["tokens_per_s", "first_token_s"]


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting of an engine, and the values that are tried instead of its default.

    Attributes:
        name: the option, or `THREADS`.
        values: alternatives to the default.
        goal: the measured number that the setting is chosen by.
    """

    name: str
    values: tuple[Option, ...]
    goal: Goal = "tokens_per_s"


def axes_of(engine: SpeedEngine, *, cores: int, has_gpu: bool) -> tuple[Axis, ...]:
    """Return the settings of an engine that are worth a trial on this machine.

    Args:
        has_gpu: True if engines compute on a GPU.
    """
    half = max(1, math.ceil(cores / 2))
    threads = () if has_gpu or half == cores else (Axis(THREADS, (half,)),)
    match engine:
        case "gguf":
            return (
                *threads,
                Axis("flash_attention", (False,)),
                Axis("cache_type", ("q8_0",)),
                Axis("n_ubatch", (128,), "first_token_s"),
            )
        case "vllm":
            blocks = (Axis("block_size", (64, 32)),)
            return (
                *threads,
                *(() if has_gpu else blocks),
                Axis("kv_cache_dtype", ("fp8",)),
                Axis("max_num_batched_tokens", (512,), "first_token_s"),
            )
        case "transformers":
            return (*threads, Axis("attn_implementation", ("eager",)))


def spelled(options: Iterable[tuple[str, Option]]) -> str:
    """Return options as people read them."""
    return ", ".join(f"{name} {str(value).lower()}" for name, value in options)
