"""A repair of vLLM's LoRA on a CPU: tokens of requests for the base are left alone.

In a batch with adapters vLLM marks such tokens by the slot -1. Its kernels for GPUs pass over them; those for CPUs
(0.32) take -1 for the last slot, and add whatever adapter lies there: the base answers as that adapter does.

It relies on ``PunicaWrapperCPU.update_metadata``, and on the kernels of ``vllm.lora.ops.torch_ops.lora_ops``, which
``vllm.lora.punica_wrapper.punica_cpu`` and the kernels for prompts call by their names. A test names each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["leave_base_rows_alone"]

_KERNELS = ("bgmv_expand", "bgmv_expand_slice", "bgmv_shrink")
_has_base_rows = True
"""True if the batch that this process computes has tokens without an adapter."""


@functools.cache
def leave_base_rows_alone() -> None:
    """Repair the kernels in this process."""
    from vllm.lora.ops.torch_ops import lora_ops  # the replica needs none of it
    from vllm.lora.punica_wrapper import punica_cpu

    for name in _KERNELS:
        repaired = _for_adapters_alone(getattr(lora_ops, name))
        for module in (lora_ops, punica_cpu):
            if hasattr(module, name):
                setattr(module, name, repaired)
    punica_cpu.PunicaWrapperCPU.update_metadata = _noting_base_rows(punica_cpu.PunicaWrapperCPU.update_metadata)


def _noting_base_rows(update: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(update)
    def noting(wrapper: Any, mapping: Any, *args: Any, **options: Any) -> None:
        global _has_base_rows  # noqa: PLW0603  (an engine computes one batch at a time)
        _has_base_rows = 0 in mapping.index_mapping
        update(wrapper, mapping, *args, **options)

    return noting


def _for_adapters_alone(kernel: Callable[..., None]) -> Callable[..., None]:
    """Return a kernel that computes the rows with a slot, and writes no other."""

    @functools.wraps(kernel)
    def repaired(inputs: Any, weights: Any, output: Any, slots: Any, *args: Any, **options: Any) -> None:
        if not _has_base_rows:
            kernel(inputs, weights, output, slots, *args, **options)
            return
        rows = (slots >= 0).nonzero().flatten()
        if len(rows):
            part = output[rows]
            kernel(inputs[rows], weights, part, slots[rows], *args, **options)
            output[rows] = part

    return repaired
