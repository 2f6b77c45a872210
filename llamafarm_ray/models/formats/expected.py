"""Comparison of the tensors of a model's configuration with those of its files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.models.convert.families import family_of_config
from llamafarm_ray.models.convert.rope import ROPE_TENSORS
from llamafarm_ray.models.convert.tensors import file_tensors, gguf_names
from llamafarm_ray.models.foreign import UNREADABLE, first_line
from llamafarm_ray.models.formats.comparison import Comparison
from llamafarm_ray.models.header_check import not_needed, tied_names
from llamafarm_ray.models.loading import bare_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["compare_with_config", "compare_with_facts"]

Shapes = Mapping[str, tuple[int, ...]]


def compare_with_config(config: Mapping[str, Any], found: Shapes) -> Comparison:
    """Compare the tensors of safetensors files with those that a ``config.json`` makes, without weights.

    Args:
        found: shapes by name.
    """
    if not str((config.get("architectures") or [""])[0]).endswith(("ForCausalLM", "LMHeadModel")):
        return Comparison(unchecked="its architecture writes no text, or is not named")
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain = {key: value for key, value in config.items() if key != "quantization_config"}
            (Path(folder) / "config.json").write_text(json.dumps(plain), encoding="utf-8")
            model = bare_model(Path(folder))
    except LlamaFarmError as error:
        return Comparison(unchecked=error.message)
    if get_checkpoint_conversion_mapping(model.config.model_type):
        return Comparison(_count(model), unchecked="transformers renames its tensors while it loads them")
    expected = {name: tuple(one.shape) for name, one in model.state_dict().items()}
    found = _as_loaded(model, expected, found)
    if config.get("quantization_config"):
        return _compared_packed(model, found)
    return _compared(model, expected, found)


def _as_loaded(model: PreTrainedModel, expected: Shapes, found: Shapes) -> Shapes:
    """Return the tensors by the names that loading gives them: files of an inner model alone lack its name in front."""
    prefix = f"{model.base_model_prefix}."
    if any(name.startswith(prefix) for name in found):
        return found
    return {f"{prefix}{name}" if f"{prefix}{name}" in expected else name: shape for name, shape in found.items()}


def compare_with_facts(config: PreTrainedConfig, found: Shapes) -> Comparison:
    """Compare the tensors of a GGUF file with those that its facts make.

    Args:
        found: shapes by name, the fastest dimension first.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except UNREADABLE as error:
        return Comparison(unchecked=first_line(error))
    family, state = family_of_config(config), file_tensors(model)
    names = gguf_names(family, config.num_hidden_layers, state)
    turned = {name: bool(family.transposed) and name.endswith(family.transposed) for name in state}
    shapes = {
        names[name]: _plain(tensor.shape if turned[name] else reversed(tensor.shape)) for name, tensor in state.items()
    }
    return _compared(model, shapes, {name: _plain(one) for name, one in found.items() if name not in ROPE_TENSORS})


def _plain(shape: Iterable[int]) -> tuple[int, ...]:
    """Return a shape, the fastest dimension first, without the ones at its end, which files may leave out."""
    plain = list(shape)
    while len(plain) > 1 and plain[-1] == 1:
        plain.pop()
    return tuple(plain)


def _compared_packed(model: PreTrainedModel, found: Shapes) -> Comparison:
    """Compare quantized weights by the names of their modules alone: a method packs shapes as it likes."""
    modules = {name[:end] for name in found for end, letter in enumerate(name) if letter == "."}
    missing = {name for name in model.state_dict() if name not in found and name.rpartition(".")[0] not in modules}
    unchecked = "its weights are quantized, so only the names of their modules were"
    return Comparison(_count(model), tuple(sorted(missing - tied_names(model, found))), unchecked=unchecked)


def _compared(model: PreTrainedModel, expected: Shapes, found: Shapes) -> Comparison:
    missing = {name for name in expected if name not in found} - tied_names(model, found) - not_needed(model, expected)
    unexpected = [name for name in found if name not in expected and not name.endswith(_BUFFERS)]
    misshapen = [
        f"{name}: {list(found[name])} instead of {list(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != expected[name]
    ]
    return Comparison(_count(model), tuple(sorted(missing)), tuple(sorted(unexpected)), tuple(sorted(misshapen)))


_BUFFERS = (".masked_bias", ".attn.bias", ".rotary_emb.inv_freq", ".position_ids")
"""Endings of masks and positions that older releases of transformers saved, and newer ones compute."""


def _count(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
