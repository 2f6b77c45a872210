"""``method: auto``: the decision tree, from the hardware found and the model's size, with its reasons."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Choice", "Hardware", "choose_method"]

_GIB = 1024**3
_LIMITED_GPU_BYTES = 24 * _GIB
_LARGE_MODEL = 13_000_000_000
_LARGE_DATASET = 100_000
_FULL_BYTES_PER_PARAMETER = 16
"""Weights, gradient and AdamW's two moments in fp32; activations come on top."""
_LORA_BYTES_PER_PARAMETER = 2
"""Frozen weights in bf16; the adapter's share is small."""
_HEADROOM = 1.25
"""For activations and fragmentation."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the workers can use.

    Args:
        num_cpus: CPUs of the cluster.
        num_gpus: GPUs of the cluster.
        gpu_memory_bytes: memory of one GPU; 0 without.
        has_bf16: whether the GPUs compute in bf16.
    """

    num_cpus: float
    num_gpus: int = 0
    gpu_memory_bytes: int = 0
    has_bf16: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What was taken, and why."""

    name: str
    reasons: list[str]


def choose_method(hardware: Hardware, *, num_parameters: int, num_rows: int) -> Choice:
    """Walk the decision tree.

    Below 24 GiB of GPU memory, models above 13B parameters take QLoRA and others LoRA. With more, a dataset of
    more than 100,000 rows is worth full fine-tuning if it fits; otherwise LoRA, or QLoRA where LoRA does not fit.
    """
    size = f"the model has {num_parameters / 1e9:.2f}B parameters"
    if hardware.num_gpus == 0:
        return Choice("lora", ["There is no GPU: LoRA keeps the optimizer small, and 4-bit weights gain no speed."])
    gpu = f"A GPU has {hardware.gpu_memory_bytes / _GIB:.0f} GiB"
    if hardware.gpu_memory_bytes < _LIMITED_GPU_BYTES:
        if num_parameters > _LARGE_MODEL:
            return Choice("qlora", [f"{gpu} (less than 24) and {size} (more than 13B)."])
        return Choice("lora", [f"{gpu} (less than 24) and {size} (13B or less)."])
    lora_bytes = num_parameters * _LORA_BYTES_PER_PARAMETER * _HEADROOM
    if lora_bytes > hardware.gpu_memory_bytes:
        return Choice("qlora", [f"{gpu}, and {size}: bf16 weights alone would need {lora_bytes / _GIB:.0f} GiB."])
    full_bytes = num_parameters * _FULL_BYTES_PER_PARAMETER * _HEADROOM
    if num_rows > _LARGE_DATASET and full_bytes <= hardware.gpu_memory_bytes:
        return Choice("full", [f"{num_rows} rows (more than 100,000), and {gpu[0].lower()}{gpu[1:]}, enough for all."])
    return Choice("lora", [f"{gpu}, {size}, and there are {num_rows} rows: LoRA comes within 95-98% of full quality."])
