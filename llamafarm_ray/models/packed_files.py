"""Quantized weights in transformers' layout, recognized by their config.json, and where vLLM computes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["is_packed", "why_not_vllm_on_cpu"]

_EIGHT_BITS = 8


def is_packed(folder: Path) -> bool:
    """Return True if a folder's config.json says that its weights are quantized."""
    return bool(_quantization(folder))


def why_not_vllm_on_cpu(folder: Path) -> str:
    """Return the reason why vLLM can't serve a folder's quantized weights on a CPU; empty if it can, or none are.

    vLLM computes with 4-bit weights, and with 8-bit integers on both sides, on a CPU, and with AWQ's and GPTQ's files.
    """
    packed = _quantization(folder)
    method = str(packed.get("quant_method", ""))
    if method == "bitsandbytes":
        return "weights in bitsandbytes' format"
    if method != "compressed-tensors":
        return ""
    groups = packed.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights, inputs = group.get("weights") or {}, group.get("input_activations")
        if weights.get("type") == "float":
            return "weights in floating point of few bits"
        if weights.get("num_bits") == _EIGHT_BITS and not inputs:
            return "weights in 8 bits beside inputs in 16"
    return ""


def _quantization(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return found if isinstance(found, dict) else {}
