"""``strategy: auto``: what the number of workers and the memory ask for."""

from __future__ import annotations

from llamafarm_ray.training.methods.auto import Choice, Hardware

__all__ = ["choose_strategy"]

_BYTES_PER_PARAMETER = {"full": 16, "qlora": 1}
"""Weights, and for full fine-tuning gradient and AdamW's moments in fp32."""
_FROZEN_BYTES_PER_PARAMETER = 2
"""Of the methods that train an adapter over weights in bf16; the adapter's share is small."""
_HEADROOM = 1.25


def choose_strategy(hardware: Hardware, *, num_workers: int, method: str, num_parameters: int) -> Choice:
    """``single`` for one worker, ``ddp`` for several, ZeRO stage 3 where a copy each does not fit the GPUs."""
    if num_workers == 1:
        return Choice("single", ["There is one worker."])
    needed = num_parameters * _BYTES_PER_PARAMETER.get(method, _FROZEN_BYTES_PER_PARAMETER) * _HEADROOM
    if hardware.num_gpus and needed > hardware.gpu_memory_bytes and method != "qlora":
        return Choice(
            "deepspeed_zero3",
            [f"Method {method} needs about {needed / 1024**3:.0f} GiB, more than one GPU has: workers share it."],
        )
    return Choice("ddp", [f"Each of the {num_workers} workers can hold the whole model."])
