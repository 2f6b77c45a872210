"""Names and layouts of a model's tensors in transformers and in GGUF."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import gguf
import torch

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.models.convert.families import Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["file_tensors", "from_gguf", "gguf_names", "to_gguf"]

_SUFFIXES = (".weight", ".bias")
_HEAD = "lm_head.weight"
_SHARED_GATE = "shared_expert_gate.weight"
_FUSED = ("query_key_value.weight", "query_key_value.bias")
_GATE_AND_UP, _DOWN = ".experts.gate_up_proj", ".experts.down_proj"


def file_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the tensors of a transformers model that a GGUF file holds, by names that `gguf_names` knows.

    They are views of the model's own, so values that are copied into them are in the model. A head that is tied to the
    embeddings is left out, and the gate and up matrices of experts are two tensors.
    """
    found = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(_GATE_AND_UP):
            experts, half = name.removesuffix("gate_up_proj"), tensor.shape[1] // 2
            found[f"{experts}gate_proj.weight"] = tensor[:, :half]
            found[f"{experts}up_proj.weight"] = tensor[:, half:]
        elif name.endswith(_DOWN):
            found[f"{name}.weight"] = tensor
        elif name != _HEAD or not model.config.tie_word_embeddings:
            found[name] = tensor
    return found


def gguf_names(family: Family, num_layers: int, names: Iterable[str]) -> dict[str, str]:
    """Return the GGUF name of each tensor of a transformers model.

    Args:
        names: keys of `file_tensors`.

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
    if family.groups and name.endswith(_FUSED):
        return _ungrouped(tensor, config.num_attention_heads, family.groups(config))
    if family.permutes and (heads := _rotated_heads(config, name)):
        return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    return tensor


def from_gguf(family: Family, config: PreTrainedConfig, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a GGUF file in transformers' layout: the reverse of `to_gguf`."""
    if name.endswith(family.transposed) and family.transposed:
        return tensor.t().contiguous()
    if family.norm_offset and name.endswith("norm.weight"):
        return tensor - family.norm_offset
    if family.groups and name.endswith(_FUSED):
        return _grouped(tensor, config.num_attention_heads, family.groups(config))
    if name.endswith(_SHARED_GATE):  # a row; older files have it as a list
        return tensor.reshape(1, -1)
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


def _ungrouped(tensor: torch.Tensor, heads: int, groups: int) -> torch.Tensor:
    """Return all queries, all keys and all values of a tensor whose groups each have queries, a key and a value."""
    rest = tensor.shape[1:]
    grouped = tensor.reshape(groups, heads // groups + 2, -1, *rest)
    return torch.cat([part.reshape(-1, *rest) for part in (grouped[:, :-2], grouped[:, -2], grouped[:, -1])])


def _grouped(tensor: torch.Tensor, heads: int, groups: int) -> torch.Tensor:
    """Return the reverse of `_ungrouped`."""
    rest, width = tensor.shape[1:], tensor.shape[0] // (heads + 2 * groups)
    keys, values = heads * width, (heads + groups) * width
    parts = (tensor[:keys], tensor[keys:values], tensor[values:])
    return torch.cat([part.reshape(groups, -1, width, *rest) for part in parts], dim=1).reshape(tensor.shape)
