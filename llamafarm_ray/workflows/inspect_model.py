"""Examine a model before it is used: its facts, its tensors, its needs, and what serves and trains it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.formats.archives import is_archive
from llamafarm_ray.models.formats.files import ModelFiles, opened_files
from llamafarm_ray.models.formats.inspection import Inspection, inspect_files
from llamafarm_ray.registry import RegistryApi, find_base

__all__ = ["InspectedModel", "inspect_model", "inspect_opened"]

_METHODS = ("full", "lora", "qlora", "adapter", "prefix_tuning", "hybrid_lora_adapter")


@dataclass(frozen=True, slots=True)
class InspectedModel:
    """An inspected model.

    Attributes:
        source: as it was asked for.
        size_bytes: of its files together.
        inspection: its facts.
        served_by: engines that take its files.
        trained_by: methods of fine-tuning that take its files.
    """

    source: str
    size_bytes: int
    inspection: Inspection
    served_by: tuple[str, ...]
    trained_by: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {**asdict(self), "problems": self.inspection.problems}


def inspect_model(registry: RegistryApi, source: str) -> InspectedModel:
    """Inspect a model on this machine or in the registry.

    Args:
        registry: registry for names.
        source: a folder, a safetensors or GGUF file, a wheel or zip file, or a name.

    Raises:
        InputError: it is no model, its weights are pickled, or a header breaks its format.
        NotFoundError: there is nothing of that name.
    """
    path = Path(source).expanduser()
    if not path.exists():
        path = find_base(source, registry, or_adapter=True).folder
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{source!r} is neither a file nor a folder.", hint="Give the folder or file of a model.")
    with opened_files(path, is_archive=is_archive(path)) as files:
        return inspect_opened(files, source)


def inspect_opened(files: ModelFiles, source: str, *, compare: bool = True) -> InspectedModel:
    """Inspect a model whose files are read in parts, wherever they are.

    Args:
        files: its files.
        source: its name in the result and in errors.
        compare: hold its tensors against its architecture.

    Raises:
        InputError: see `inspect_model`.
    """
    found = inspect_files(files, shown=source, compare=compare)
    return InspectedModel(source, sum(files.sizes.values()), found, _served_by(found), _trained_by(found))


def _served_by(found: Inspection) -> tuple[str, ...]:
    if found.problems:
        return ()
    if found.format == "gguf":
        return ("gguf",)
    is_whole = found.is_adapter or bool(found.architecture and found.tokenizer)
    return ("vllm", "transformers") if is_whole else ()


def _trained_by(found: Inspection) -> tuple[str, ...]:
    is_text = found.format == "safetensors" and found.architecture.endswith(("ForCausalLM", "LMHeadModel"))
    is_usable = is_text and not found.is_adapter and not found.problems and bool(found.tokenizer)
    return _METHODS if is_usable else ()
