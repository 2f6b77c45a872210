"""Quantized weights in transformers' layout, recognized by their config.json, and vLLM's kernels for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "LOADED_METHODS",
    "PACKED_DTYPE",
    "VLLM_METHODS",
    "is_packed",
    "vllm_dtype_on_cpu",
    "why_not_packed_in_vllm",
    "why_not_quantization_in_vllm",
]

PACKED_DTYPE = "bfloat16"
"""The dtype that vLLM computes in with quantized weights on a CPU: its kernels there take 16 bits, and not 32."""
VLLM_METHODS = frozenset(
    {
        *("auto-round", "awq", "compressed-tensors", "experts_int8", "fbgemm_fp8", "fp8", "fp_quant", "gptq", "inc"),
        *("modelopt", "modelopt_fp4", "modelopt_mixed", "modelopt_mxfp8", "mxfp4", "mxfp8", "quark", "torchao"),
    }
)
"""``quant_method`` of the files that vLLM reads. Since 0.28 it leaves bitsandbytes and GGUF to plugins."""

LOADED_METHODS = frozenset({"bitsandbytes", "compressed-tensors"})
"""``quant_method`` of the files that transformers reads with the libraries that this project installs."""

_FOUR_BITS = 4


def is_packed(folder: Path) -> bool:
    """Return True if a folder's config.json says that its weights are quantized."""
    return bool(_quantization(folder))


def vllm_dtype_on_cpu(folder: Path) -> str:
    """Return the dtype that vLLM computes in on a CPU, as torch names it."""
    return PACKED_DTYPE if is_packed(folder) else "float32"


def why_not_packed_in_vllm(folder: Path, *, on_gpu: bool) -> str:
    """Return the reason why vLLM should not serve a folder's quantized weights; empty if it can, or none are.

    On a CPU vLLM computes with 4-bit integers, and with 8-bit integers on both sides. It loads floating point of 8 bits
    too, and leaves it to a reference kernel of torch, which takes thousands of times as long as bfloat16.

    Args:
        on_gpu: True for a GPU, False for a CPU.
    """
    return why_not_quantization_in_vllm(_quantization(folder), on_gpu=on_gpu)


def why_not_quantization_in_vllm(packed: Mapping[str, object], *, on_gpu: bool) -> str:
    """Return the same as `why_not_packed_in_vllm`, of a config.json's ``quantization_config``."""
    method = str(packed.get("quant_method", ""))
    if method and method not in VLLM_METHODS:
        return f"weights in the format of {method}"
    return "" if on_gpu else _why_not_on_cpu(packed)


def _why_not_on_cpu(packed: Mapping[str, object]) -> str:
    widths: list[object] = [packed.get("bits")] if packed.get("quant_method") == "gptq" else []
    groups = packed.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        if not isinstance(group, dict) or not isinstance(weights := group.get("weights") or {}, dict):
            continue
        inputs = group.get("input_activations")
        if weights.get("type") == "float":
            return "weights in floating point of few bits"
        if not inputs:
            widths.append(weights.get("num_bits"))
    bits = next((width for width in widths if width not in (None, _FOUR_BITS)), None)
    return f"weights in {bits} bits beside inputs in 16" if bits else ""


def _quantization(folder: Path) -> dict[str, object]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return found if isinstance(found, dict) else {}
