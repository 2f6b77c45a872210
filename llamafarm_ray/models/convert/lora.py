"""A LoRA adapter as a GGUF file, which llama.cpp adds to its base model's file.

The format is that of llama.cpp's ``convert_lora_to_gguf.py``: for a tensor of the base, ``NAME.lora_a`` and
``NAME.lora_b``, and one ``adapter.lora.alpha``, whose quotient by a tensor's rank scales its update.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import load_file

from llamafarm_ray.errors import IntegrityError, UnsupportedError
from llamafarm_ray.models.adapters.config import WEIGHTS, AdapterConfig, read_adapter_config
from llamafarm_ray.models.adapters.headers import PREFIX
from llamafarm_ray.models.convert.families import Family, family_of_config
from llamafarm_ray.models.convert.gguf_model import read_tensor
from llamafarm_ray.models.convert.tensors import gguf_names, to_gguf
from llamafarm_ray.storage.formats.gguf import read_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["check_convertible", "write_gguf_lora"]

_A, _B = ".lora_A.weight", ".lora_B.weight"
_TOLERANCE = {GGMLQuantizationType.F32: 1e-5, GGMLQuantizationType.F16: 2e-3}
_HINT = "Merge it (`llamafarm models merge`) and convert the merged model."


def check_convertible(adapter: Path) -> AdapterConfig:
    """Check that an adapter is of the kind that llama.cpp adds, and return its configuration.

    Raises:
        InputError: the folder is no adapter.
        UnsupportedError: it is of another kind.
    """
    config = read_adapter_config(adapter)
    reasons = {
        f"is of type {config.peft_type}, not LORA": config.peft_type != "LORA",
        "uses DoRA": config.values.get("use_dora"),
        "trains biases": config.values.get("bias", "none") != "none" or config.values.get("lora_bias"),
        "brings whole modules of its own": config.values.get("modules_to_save"),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedError(f"The adapter {reason}; llama.cpp adds plain LoRA.", hint=_HINT)
    return config


def write_gguf_lora(
    adapter: Path, base: PreTrainedModel, path: Path, *, name: str, base_name: str, half: bool = True
) -> float:
    """Write an adapter, and compare each update that the file holds with the adapter's own.

    Args:
        adapter: a LoRA adapter's folder, which was proved against its base.
        base: the base model, from transformers; one without weights will do.
        name: name of the adapter in the file.
        base_name: name of the base model in the file.
        half: write 16-bit numbers instead of 32-bit ones.

    Returns:
        the largest difference of an update, as a share of its norm.

    Raises:
        UnsupportedError: the adapter is of a kind, or updates a module, that llama.cpp doesn't.
        IntegrityError: the file holds other updates.
    """
    config = check_convertible(adapter)
    family = family_of_config(base.config)
    modules = _modules(load_file(adapter / WEIGHTS))
    named = gguf_names(family, base.config.num_hidden_layers, [f"{module}.weight" for module in modules])
    kind = GGMLQuantizationType.F16 if half else GGMLQuantizationType.F32
    writer = GGUFWriter(path, family.architecture)
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base_name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config.lora_alpha))
    for module, (down, up) in modules.items():
        rank = down.shape[0]
        own = config.scale_of(module) * rank / config.lora_alpha  # 1 but for rsLoRA and patterns
        turned = to_gguf(family, base.config, _untransposed(family, f"{module}.weight"), up * own)
        for suffix, values in (("lora_a", down), ("lora_b", turned)):
            data = values.contiguous().numpy().astype(np.float16 if half else np.float32)
            writer.add_tensor(f"{named[f'{module}.weight']}.{suffix}", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    difference = _largest_difference(path, base.config, config, modules=modules, named=named)
    if not difference <= _TOLERANCE[kind]:
        raise IntegrityError(
            f"The written adapter's updates differ from the source's by {difference:.3g} of their size.",
            hint="Nothing was written. Say --precision fp32.",
        )
    return difference


def _untransposed(family: Family, name: str) -> str:
    """Return a tensor's name, unless its base is transposed: peft's matrices are not."""
    return "" if family.transposed and name.endswith(family.transposed) else name


def _modules(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found = {}
    for name, tensor in tensors.items():
        module = name.removeprefix(PREFIX).removesuffix(_A)
        if name.endswith(_A):
            found[module] = (tensor.float(), tensors[name.removesuffix(_A) + _B].float())
        elif not name.endswith(_B):
            raise UnsupportedError(f"The adapter has the tensor {name!r}, which llama.cpp does not add.", hint=_HINT)
    return found


def _largest_difference(
    path: Path,
    base_config: PreTrainedConfig,
    config: AdapterConfig,
    *,
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    named: Mapping[str, str],
) -> float:
    """Return by how much the updates in a file differ from those of the adapter, the latter in the file's layout."""
    family, header = family_of_config(base_config), read_gguf(path)
    entries = {entry.name: entry for entry in header.entries}
    alpha, largest = float(header.facts["adapter.lora.alpha"]), 0.0
    for module, (down, up) in modules.items():
        name = named[f"{module}.weight"]
        expected = config.scale_of(module) * (up @ down)
        expected = to_gguf(family, base_config, _untransposed(family, f"{module}.weight"), expected)
        a, b = (read_tensor(path, entries[f"{name}.{suffix}"]) for suffix in ("lora_a", "lora_b"))
        found = alpha / a.shape[0] * (b @ a)
        size = float(expected.norm())
        largest = max(largest, float((found - expected).norm()) / size if size else float(found.norm()))
    return largest
