"""Formats of weights by name: the types of a file's tensors, and the difference from the source that each may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from llamafarm_ray.errors import InputError, did_you_mean
from llamafarm_ray.models.convert.measure import Bound

__all__ = ["GGUF_PRECISIONS", "GgufPrecision", "gguf_precision", "tensor_type"]

Type = GGMLQuantizationType

_EXACT, _HALF, _EIGHT = Bound(1e-5, 1.001), Bound(0.01, 1.01), Bound(0.02, 1.02)
_SIX, _FIVE, _FOUR, _THREE = Bound(0.05, 1.05), Bound(0.1, 1.1), Bound(0.25, 1.25), Bound(0.75, 2.0)

_ROUTER = ".ffn_gate_inp"
_NARROWER = {Type.Q3_K: Type.Q4_0, Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
"""Types for rows whose width is no multiple of a K-quant's 256 values, as llama.cpp chooses them."""


@dataclass(frozen=True, slots=True)
class GgufPrecision:
    """A format of a file's weights.

    Attributes:
        name: its name for users.
        file_type: llama.cpp's number of it.
        usual: the type of matrices.
        bound: the difference from the source that is let through.
        output: the type of the output matrix, and of embeddings that are used as such.
        value: the type of attention values, by layer and number of layers.
        down: likewise of the feed-forward networks' second matrix.
    """

    name: str
    file_type: LlamaFileType
    usual: Type
    bound: Bound
    output: Type | None = None
    value: Callable[[int, int], Type] | None = None
    down: Callable[[int, int], Type] | None = None


def _gets_more(layer: int, num_layers: int) -> bool:
    """Return True for layers that get more bits: llama.cpp's ``use_more_bits``."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2  # llama.cpp's


def _more(more: Type, usual: Type) -> Callable[[int, int], Type]:
    return lambda layer, num_layers: more if _gets_more(layer, num_layers) else usual


def _three_down(layer: int, num_layers: int) -> Type:
    if layer < num_layers // 16:
        return Type.Q5_K
    return Type.Q4_K if _gets_more(layer, num_layers) else Type.Q3_K


GGUF_PRECISIONS = {
    one.name: one
    for one in (
        GgufPrecision("fp32", LlamaFileType.ALL_F32, Type.F32, _EXACT),
        GgufPrecision("fp16", LlamaFileType.MOSTLY_F16, Type.F16, _HALF),
        GgufPrecision("bf16", LlamaFileType.MOSTLY_BF16, Type.BF16, _HALF),
        GgufPrecision("q8_0", LlamaFileType.MOSTLY_Q8_0, Type.Q8_0, _EIGHT),
        GgufPrecision("q6_k", LlamaFileType.MOSTLY_Q6_K, Type.Q6_K, _SIX, Type.Q6_K),
        GgufPrecision("q5_k_s", LlamaFileType.MOSTLY_Q5_K_S, Type.Q5_K, _FIVE, Type.Q6_K),
        GgufPrecision(
            "q5_k_m",
            LlamaFileType.MOSTLY_Q5_K_M,
            Type.Q5_K,
            _FIVE,
            Type.Q6_K,
            _more(Type.Q6_K, Type.Q5_K),
            _more(Type.Q6_K, Type.Q5_K),
        ),
        GgufPrecision(
            "q4_k_s",
            LlamaFileType.MOSTLY_Q4_K_S,
            Type.Q4_K,
            _FOUR,
            Type.Q6_K,
            lambda layer, _: Type.Q5_K if layer < 4 else Type.Q4_K,  # llama.cpp's
            lambda layer, num_layers: Type.Q5_K if layer < num_layers // 8 else Type.Q4_K,
        ),
        GgufPrecision(
            "q4_k_m",
            LlamaFileType.MOSTLY_Q4_K_M,
            Type.Q4_K,
            _FOUR,
            Type.Q6_K,
            _more(Type.Q6_K, Type.Q4_K),
            _more(Type.Q6_K, Type.Q4_K),
        ),
        GgufPrecision("q4_0", LlamaFileType.MOSTLY_Q4_0, Type.Q4_0, _FOUR, Type.Q6_K),
        GgufPrecision(
            "q3_k_m",
            LlamaFileType.MOSTLY_Q3_K_M,
            Type.Q3_K,
            _THREE,
            Type.Q6_K,
            lambda layer, _: Type.Q5_K if layer < 2 else Type.Q4_K,  # llama.cpp's
            _three_down,
        ),
    )
}
"""Formats of GGUF files, by name: unquantized ones, and llama.cpp's mixes of types."""


def gguf_precision(name: str) -> GgufPrecision:
    """Return the format of that name, in any case of letters.

    Raises:
        InputError: there is none.
    """
    found = GGUF_PRECISIONS.get(name.lower())
    if found is None:
        raise InputError(f"There is no precision {name!r} of GGUF files.", hint=did_you_mean(name, GGUF_PRECISIONS))
    return found


def tensor_type(precision: GgufPrecision, name: str, shape: tuple[int, ...], num_layers: int, *, tied: bool) -> Type:
    """Return the type of a tensor in a file.

    Args:
        name: the tensor's, in GGUF.
        shape: its rows and their width.
        tied: True if the embeddings are the output matrix, too.
    """
    if len(shape) == 1 or name.startswith(("position_embd", "rope_")) or _ROUTER in name:
        return Type.F32
    layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
    chosen = precision.usual
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        chosen = precision.output or chosen
    elif ".attn_v." in name and precision.value:
        chosen = precision.value(layer, num_layers)
    elif ".ffn_down." in name and precision.down:
        chosen = precision.down(layer, num_layers)
    width = shape[-1]
    if width % GGML_QUANT_SIZES[chosen][0]:
        chosen = _NARROWER.get(chosen, Type.F16)
    return Type.F16 if width % GGML_QUANT_SIZES[chosen][0] else chosen
