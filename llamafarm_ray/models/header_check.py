"""Comparison of the tensors of a folder's headers with those of a model, before memory is taken for any."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from llamafarm_ray.models.loading_report import refuse_weights
from llamafarm_ray.storage.formats.safetensors import read_tensors
from llamafarm_ray.storage.formats.shards import INDEX, read_weight_map

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_headers", "not_needed", "tied_names"]

_Shapes = Mapping[str, tuple[int, ...]]

_MOST_PACKED = 32
"""The most parameters that one number of a packed tensor holds: bits of an integer."""


def check_headers(model: PreTrainedModel, folder: Path, *, is_packed: bool, without_head: bool) -> None:
    """Check that a folder's tensors can fill a model, by their names and shapes.

    Transformers initializes missing tensors, so a config.json that describes more than its weights would take the
    memory of the described model. It also renames, splits and joins tensors of some architectures. Names alone are
    refused here
    only where no tensor that is left over could have become the missing ones; the rest is for `check_loaded_weights`.

    Args:
        model: the model on torch's meta device.
        is_packed: True if the files are quantized, so that they have other names and shapes.
        without_head: see `check_loaded_weights`.

    Raises:
        InputError: the tensors can't be those of the model; the message has the first names.
    """
    found = _by_their_names_here(model, _shapes(folder))
    if not found:  # transformers says which files it misses
        return
    wanted = {name: tuple(one.shape) for name, one in model.named_parameters(remove_duplicate=False)}
    may_lack = tied_names(model, found) | not_needed(model, wanted)
    if is_packed:
        modules = {module for name in found for module in _parents(name)}
        may_lack |= {name for name in wanted if name.rpartition(".")[0] in modules}
    if without_head:
        may_lack |= {name for name in wanted if "pooler" in name.split(".")}
    missing = wanted.keys() - found.keys() - may_lack
    left_over = found.keys() - model.state_dict().keys()
    is_converted = is_packed or bool(get_checkpoint_conversion_mapping(model.config.model_type))
    mismatched = {
        (name, shape, wanted[name])
        for name, shape in found.items()
        if not is_converted and shape != wanted.get(name, shape)
    }
    spare = _numbers(found, left_over) * (_MOST_PACKED if is_packed else 1)
    if mismatched or _numbers(wanted, missing) > spare:
        named = () if is_packed else left_over  # packed tensors have names of their own
        refuse_weights(model, folder, missing, named, mismatched, without_head=without_head)


def tied_names(model: PreTrainedModel, found: Collection[str]) -> set[str]:
    """Return names of parameters of which the files have another one that is the same."""
    model.tie_weights()
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return {name for names in groups.values() if any(one in found for one in names) for name in names}


def not_needed(model: PreTrainedModel, names: Collection[str]) -> set[str]:
    """Return names of tensors that files of the architecture need not have."""
    patterns = [re.compile(one) for one in getattr(model, "_keys_to_ignore_on_load_missing", None) or ()]
    return {name for name in names if any(pattern.search(name) for pattern in patterns)}


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in the files that transformers reads."""
    whole, index = folder / "model.safetensors", folder / INDEX
    if whole.is_file():
        files = [whole]
    elif index.is_file():
        weight_map = read_weight_map(index.read_bytes(), shown=str(index))
        files = [path for name in sorted({*weight_map.values()}) if (path := folder / name).is_file()]
    else:
        files = []
    return {tensor.name: tensor.shape for path in files for tensor in read_tensors(path)}


def _by_their_names_here(model: PreTrainedModel, found: _Shapes) -> dict[str, tuple[int, ...]]:
    """Return tensors by the names that loading gives them, with or without that of the inner model in front."""
    names, prefix = model.state_dict().keys(), f"{model.base_model_prefix}."

    def named(name: str) -> str:
        return next((one for one in (name, f"{prefix}{name}", name.removeprefix(prefix)) if one in names), name)

    return {named(name): shape for name, shape in found.items()}


def _parents(name: str) -> Iterator[str]:
    """Yield the modules that a tensor is in."""
    while name := name.rpartition(".")[0]:
        yield name


def _numbers(shapes: _Shapes, names: Collection[str]) -> int:
    return sum(math.prod(shapes[name]) for name in names)
