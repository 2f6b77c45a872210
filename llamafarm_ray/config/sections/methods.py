"""Names of fine-tuning methods and of strategies, for every place that lists them."""

from __future__ import annotations

from typing import Final, Literal, get_args

__all__ = [
    "BOTTLENECK_METHODS",
    "LORA_METHODS",
    "LOW_RANK_METHODS",
    "METHODS",
    "STRATEGIES",
    "ChosenMethod",
    "ChosenStrategy",
    "Method",
    "Strategy",
]

ChosenMethod = Literal["lora", "qlora", "full", "adapter", "prefix_tuning", "hybrid_lora_adapter"]
Method = Literal["auto", ChosenMethod]
ChosenStrategy = Literal["single", "ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"]
Strategy = Literal["auto", ChosenStrategy]
METHODS: Final[tuple[str, ...]] = get_args(ChosenMethod)
STRATEGIES: Final[tuple[str, ...]] = get_args(ChosenStrategy)
LORA_METHODS: Final = ("lora", "qlora")
LOW_RANK_METHODS: Final = (*LORA_METHODS, "hybrid_lora_adapter")
"""Methods that add matrices of a low rank."""
BOTTLENECK_METHODS: Final = ("adapter", "hybrid_lora_adapter")
"""Methods that add bottleneck layers."""
