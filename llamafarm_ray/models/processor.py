"""Number formats that this machine's processor multiplies matrices in."""

from __future__ import annotations

import torch

__all__ = ["cpu_has_bf16"]


def cpu_has_bf16() -> bool:
    """Return True if the processor multiplies in bf16, by AVX-512 or AMX."""
    features = torch.cpu.get_capabilities()
    return bool(features.get("amx_bf16") or features.get("avx512_bf16"))
