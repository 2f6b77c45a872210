"""Number formats that this machine's processor multiplies matrices in."""

from __future__ import annotations

import torch

__all__ = ["cpu_has_bf16", "matmul_dtype"]


def cpu_has_bf16() -> bool:
    """Return True if the processor multiplies in bf16, by AVX-512 or AMX."""
    features = torch.cpu.get_capabilities()
    return bool(features.get("amx_bf16") or features.get("avx512_bf16"))


def matmul_dtype(device: torch.device) -> torch.dtype:
    """Return bf16 if a device multiplies in it, else fp32: a CPU without bf16 takes ten times as long in bf16."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else torch.float32
