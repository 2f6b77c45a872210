"""Names and layouts of a model's tensors in transformers and in GGUF."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import gguf
import torch

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.models.convert.families import Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["from_gguf", "gguf_names", "to_gguf"]

_SUFFIXES = (".weight", ".bias")


def gguf_names(family: Family, num_layers: int, names: Iterable[str]) -> dict[str, str]:
    """Return the GGUF name of each tensor of a transformers model.

    Args:
        names: keys of its state dict.

    Raises:
        UnsupportedError: a tensor has no place in a file of that architecture.
    """
    architecture = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    known = gguf.get_tensor_name_map(architecture, num_layers)
    found = {name: known.get_name(name, try_suffixes=_SUFFIXES) for name in names}
    if missing := [name for name, other in found.items() if other is None]:
        raise UnsupportedError(
            f"{len(missing)} tensors of the model have no place in a GGUF file of architecture "
            f"{family.architecture}: {', '.join(missing[:3])}.",
            hint="Serve the model with vLLM or transformers instead.",
        )
    return {name: str(other) for name, other in found.items()}


def to_gguf(family: Family, config: PreTrainedConfig, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a transformers model in GGUF's layout.

    Args:
        name: the tensor's name in transformers.
    """
    if name.endswith(family.transposed) and family.transposed:
        return tensor.t().contiguous()
    if family.norm_offset and name.endswith("norm.weight"):
        return tensor + family.norm_offset
    if family.permutes and (heads := _rotated_heads(config, name)):
        return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    return tensor


def from_gguf(family: Family, config: PreTrainedConfig, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a GGUF file in transformers' layout: the reverse of `to_gguf`."""
    if name.endswith(family.transposed) and family.transposed:
        return tensor.t().contiguous()
    if family.norm_offset and name.endswith("norm.weight"):
        return tensor - family.norm_offset
    if family.permutes and (heads := _rotated_heads(config, name)):
        return tensor.reshape(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    return tensor


def _rotated_heads(config: PreTrainedConfig, name: str) -> int:
    """Return the number of heads in the rows of a tensor that rotary positions turn; 0 for other tensors."""
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        return int(config.num_attention_heads)
    if name.endswith(("k_proj.weight", "k_proj.bias")):
        return int(config.num_key_value_heads)
    return 0
