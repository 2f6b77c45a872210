"""Examine a model before it is used: its facts, its tensors, its needs, and what serves and trains it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llamafarm_ray.config import METHODS
from llamafarm_ray.errors import InputError
from llamafarm_ray.models.adapters.config import AdapterConfig
from llamafarm_ray.models.adapters.needs import check_served, why_not_vllm
from llamafarm_ray.models.formats.archives import is_archive
from llamafarm_ray.models.formats.files import ModelFiles, opened_files
from llamafarm_ray.models.formats.inspection import Inspection, inspect_files
from llamafarm_ray.models.packed_files import LOADED_METHODS, why_not_quantization_in_vllm
from llamafarm_ray.registry import RegistryApi, find_base, is_registered
from llamafarm_ray.storage.downloads.providers.spelling import is_source

__all__ = ["InspectedModel", "inspect_model", "inspect_opened"]

_SERVED = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "Model", "ForMaskedLM")
"""Endings of the classes that write text, or give texts vectors."""


@dataclass(frozen=True, slots=True)
class InspectedModel:
    """An inspected model.

    Attributes:
        source: as it was asked for.
        served_by: engines that take its files.
        trained_by: methods of fine-tuning that take its files.
        notes: limits of the engines with it.
    """

    source: str
    size_bytes: int
    inspection: Inspection
    served_by: tuple[str, ...]
    trained_by: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return all of it as JSON has it."""
        return {**asdict(self), "problems": self.inspection.problems}


def inspect_model(registry: RegistryApi, source: str, *, include: Sequence[str] = ()) -> InspectedModel:
    """Inspect a model on this machine, in the registry, or at a source of downloads, whose weights stay there.

    Args:
        registry: registry for names.
        source: a folder, a safetensors or GGUF file, a wheel or zip file, a name, or a source of downloads.
        include: patterns of weights to look at instead of a source's safetensors.

    Raises:
        InputError: it is no model, its weights are pickled, or a header breaks its format.
        NotFoundError: there is nothing of that name.
        LlamaFarmError: a source refuses it or can't be reached.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if is_source(source) and not is_registered(source, registry):
            from llamafarm_ray.storage.downloads.downloads import is_offline  # httpx, which few commands need
            from llamafarm_ray.workflows.inspection.remote_files import remote_files

            if not is_offline():
                with remote_files(source, include) as (files, shown):
                    return inspect_opened(files, shown)
        path = find_base(source, registry, or_adapter=True).folder
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{source!r} is neither a file nor a folder.", hint="Give the folder or file of a model.")
    with opened_files(path, is_archive=is_archive(path)) as files:
        return inspect_opened(files, source)


def inspect_opened(files: ModelFiles, source: str, *, compare: bool = True) -> InspectedModel:
    """Inspect a model whose files are read in parts, wherever they are.

    Args:
        source: its name in the result and in errors.
        compare: hold its tensors against its architecture.

    Raises:
        InputError: see `inspect_model`.
    """
    found = inspect_files(files, shown=source, compare=compare)
    return InspectedModel(
        source, sum(files.sizes.values()), found, _served_by(found), _trained_by(found), _notes(found)
    )


def _served_by(found: Inspection) -> tuple[str, ...]:
    if found.problems or found.format == "mlx":
        return ()
    if found.format == "gguf":
        return ("gguf",)
    if found.is_adapter:
        return _adapter_served_by(found)
    if not found.tokenizer or found.is_encoder_decoder or not found.architecture.endswith(_SERVED):
        return ()
    method = found.quantization.get("quant_method")
    engines = [] if why_not_quantization_in_vllm(found.quantization, on_gpu=True) else ["vllm"]
    return (*engines, *(("transformers",) if method is None or method in LOADED_METHODS else ()))


def _adapter_served_by(found: Inspection) -> tuple[str, ...]:
    config = AdapterConfig(found.adapter_config, str(found.adapter_config.get("peft_type", "")))
    try:
        check_served(config)
    except InputError:
        return ()
    return ("transformers",) if why_not_vllm(config) else ("vllm", "transformers")


def _notes(found: Inspection) -> tuple[str, ...]:
    on_cpu = why_not_quantization_in_vllm(found.quantization, on_gpu=False)
    on_gpu = why_not_quantization_in_vllm(found.quantization, on_gpu=True)
    return (f"On a CPU vLLM is not used for it: it has {on_cpu}.",) if on_cpu and not on_gpu else ()


def _trained_by(found: Inspection) -> tuple[str, ...]:
    is_text = found.format == "safetensors" and found.architecture.endswith(("ForCausalLM", "LMHeadModel"))
    is_usable = is_text and not found.is_adapter and not found.problems and bool(found.tokenizer)
    return tuple(one for one in METHODS if one not in _untrainable(found)) if is_usable else ()


def _untrainable(found: Inspection) -> Collection[str]:
    """Return the methods that don't take quantized weights: full training of integers, a second quantization."""
    match found.quantization.get("quant_method"):
        case None:
            return ()
        case "compressed-tensors":  # expanded while it is loaded
            return ("qlora",)
        case "bitsandbytes":
            return ("full",)
    return METHODS
