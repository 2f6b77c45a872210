"""The tensors that a plain LoRA adapter must have on a base model, by the headers of the base's weights alone.

torch is not imported, so it takes milliseconds. It holds for models whose modules are named as their
weights are: decoders whose layers are at ``model.layers``, as most are. `expected_of_headers` returns ``None`` for all
others, and for adapters with more than ``A`` and ``B``; ask :mod:`.peft_tensors` then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafarm_ray.models.adapters.config import VECTORS, AdapterConfig
from llamafarm_ray.models.adapters.patterns import check_patterns
from llamafarm_ray.models.sentence_files import gives_vectors
from llamafarm_ray.storage.formats.safetensors import read_tensors

__all__ = ["PREFIX", "Expected", "Shape", "expected_of_headers", "read_base_config"]

Shape = tuple[int, ...]

PREFIX = "base_model.model."
"""Prefix that peft puts before the names of a model's modules."""

_MATRIX = 2
_EMBEDDING = "embed_tokens"
_PLAIN_LAYERS = "model.layers.0."
_BEYOND_PLAIN = (
    "layer_replication",
    "layers_to_transform",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)


@dataclass(frozen=True, slots=True)
class Expected:
    """The tensors of an adapter that fits.

    Attributes:
        required: name and shape of each tensor that it must have.
        allowed: likewise of those that it may have: weights of the base that were saved along.
        is_certain: True if an adapter with other tensors can't fit either. Mixtures of experts, and models that read
            images, have modules with other names than their weights.
    """

    required: Mapping[str, Shape]
    allowed: Mapping[str, Shape] = field(default_factory=dict)
    is_certain: bool = True


def read_base_config(base: Path) -> Mapping[str, object]:
    """Return a base model's ``config.json``; nothing where there is none that can be read."""
    try:
        values = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def expected_of_headers(base: Path, config: AdapterConfig) -> Expected | None:
    """Return the tensors that an adapter must have; ``None`` where headers don't tell.

    Raises:
        InputError: a file of the base is no sound safetensors file, or expressions take too long.
    """
    said, values = read_base_config(base), config.values
    names = values.get("target_modules")
    is_plain = (
        config.peft_type == "LORA"
        and values.get("bias", "none") == "none"
        and not any(values.get(key) for key in _BEYOND_PLAIN)
        and bool(names)
        and names != "all-linear"
    )
    if not is_plain or said.get("quantization_config") or gives_vectors(base) or values.get("task_type") == VECTORS:
        return None
    modules = _modules(base)
    if not any(name.startswith(_PLAIN_LAYERS) for name in modules):
        return None
    check_patterns(config, modules)
    required: dict[str, Shape] = {}
    allowed: dict[str, Shape] = {}
    for module, shape in modules.items():
        if not _is_targeted(values, module):
            continue
        if module.rpartition(".")[2] != _EMBEDDING:
            required |= _of_linear(config, module, shape)
        elif values.get("use_dora"):
            return None
        else:
            required |= _of_embedding(config, module, shape)
        if module.rpartition(".")[2] in {_EMBEDDING, "lm_head"}:  # peft saves those along with an adapter on them
            allowed[f"{PREFIX}{module}.base_layer.weight"] = shape
    return Expected(required, allowed, is_certain=all(_is_plain_name(module) for module in modules))


def _modules(base: Path) -> dict[str, Shape]:
    """Return the modules of the base that have a matrix, with its shape; a tied output head is among them."""
    found: dict[str, Shape] = {}
    for path in sorted(base.glob("*.safetensors")):
        for tensor in read_tensors(path, shown=path.name):
            module, _, last = tensor.name.rpartition(".")
            if last == "weight" and len(tensor.shape) == _MATRIX:
                found[module] = tensor.shape
    if "lm_head" not in found and (tied := found.get(f"model.{_EMBEDDING}")):
        found["lm_head"] = tied
    return found


def _is_plain_name(module: str) -> bool:
    return module in {"lm_head", f"model.{_EMBEDDING}"} or (
        module.startswith("model.layers.") and "expert" not in module
    )


def _is_targeted(values: Mapping[str, Any], module: str) -> bool:
    """Apply the rule of peft's ``check_target_module_exists``."""
    excluded = values.get("exclude_modules")
    return _is_named(values["target_modules"], module) and not (excluded and _is_named(excluded, module))


def _is_named(names: str | list[str], module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _of_linear(config: AdapterConfig, module: str, shape: Shape) -> dict[str, Shape]:
    rank, (outputs, inputs) = config.rank_of(module), shape
    tensors: dict[str, Shape] = {"lora_A.weight": (rank, inputs), "lora_B.weight": (outputs, rank)}
    if config.values.get("lora_bias"):
        tensors["lora_B.bias"] = (outputs,)
    if config.values.get("use_dora"):
        tensors["lora_magnitude_vector"] = (outputs,)
    return {f"{PREFIX}{module}.{name}": one for name, one in tensors.items()}


def _of_embedding(config: AdapterConfig, module: str, shape: Shape) -> dict[str, Shape]:
    rank, (num, width) = config.rank_of(module), shape
    return {
        f"{PREFIX}{module}.lora_embedding_A": (rank, num),
        f"{PREFIX}{module}.lora_embedding_B": (width, rank),
    }
