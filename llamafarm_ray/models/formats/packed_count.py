"""The number of parameters in quantized weights, by the headers of their files and the words of their config.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from llamafarm_ray.storage.formats.safetensors import TensorEntry

__all__ = ["count_parameters"]

_WORD_BITS = {"I8": 8, "U8": 8, "I16": 16, "I32": 32, "U32": 32, "I64": 64}
_PACKED = ("weight_packed", "qweight", "_blocks")
"""Endings of tensors that hold several weights in each number: compressed-tensors', GPTQ's and AWQ's, MXFP4's."""
_HELPERS = (
    *("weight_scale", "weight_scale_inv", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_global_scale"),
    *("input_scale", "input_zero_point", "input_global_scale", "output_scale", "k_scale", "v_scale"),
    *("qzeros", "scales", "g_idx", "_scales", "SCB", "weight_format", "activation_scale"),
)
"""Endings of tensors that hold scales, zero points, shapes or orders of others, and no parameters."""
_NESTED = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.")
"""Parts of the names of bitsandbytes' helpers."""
_DEFAULT_BITS = 4


def count_parameters(entries: Iterable[TensorEntry], quantization: Mapping[str, object]) -> int:
    """Return the number of parameters, as the unquantized model has them; tied ones as often as they are stored.

    Args:
        quantization: ``quantization_config`` of config.json; empty where weights are not quantized.
    """
    found = list(entries)
    if not quantization:
        return sum(math.prod(one.shape) for one in found)
    bits = _bits(quantization)
    nested = {one.name.rpartition(".absmax")[0] for one in found if one.name.endswith(".absmax")}
    return sum(
        math.prod(one.shape) * _weights_a_number(one, bits, is_nested=one.name in nested)
        for one in found
        if not one.name.endswith(_HELPERS) and not any(part in one.name for part in _NESTED)
    )


def _weights_a_number(entry: TensorEntry, bits: int, *, is_nested: bool) -> int:
    if not (is_nested or entry.name.endswith(_PACKED)):
        return 1
    return max(1, _WORD_BITS.get(entry.dtype, bits) // bits)


def _bits(quantization: Mapping[str, object]) -> int:
    """Return the bits of a packed weight; of several groups, those of the first."""
    groups = quantization.get("config_groups")
    found: list[object] = [quantization.get("bits"), quantization.get("w_bit")]
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        found.append(weights.get("num_bits") if isinstance(weights, dict) else None)
    return next((one for one in found if type(one) is int and one > 0), _DEFAULT_BITS)
