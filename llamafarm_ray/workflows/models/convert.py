"""Convert a model or an adapter to another format; each result is measured against its source."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llamafarm_ray import __version__
from llamafarm_ray.errors import InputError, LlamaFarmError, UnsupportedError
from llamafarm_ray.models.adapters import prove_adapter
from llamafarm_ray.models.convert.conversion import GGUF_NAME, Conversion, Target, check_precision, convert_model
from llamafarm_ray.models.convert.lora import check_convertible, write_gguf_lora
from llamafarm_ray.models.loading import bare_model
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.inspection.model_source import ModelSource, opened_model, opened_pickle
from llamafarm_ray.workflows.models.exported import convert_by_export
from llamafarm_ray.workflows.models.llama_cpp import check_in_llama_cpp, has_llama_cpp
from llamafarm_ray.workflows.models.mlx_runtime import MLX
from llamafarm_ray.workflows.models.onnx_runtime import ONNX
from llamafarm_ray.workflows.models.openvino_runtime import OPENVINO
from llamafarm_ray.workflows.models.parents import Parent, find_parent, new_folder, write_record

__all__ = ["ADAPTER_NAME", "RECORD_NAME", "ConvertedModel", "convert", "write_conversion"]

RECORD_NAME = "conversion.json"
"""The record beside a converted model: source, tools, differences."""

ADAPTER_NAME = "adapter.gguf"
"""The file of a folder that an adapter was converted in."""

_TOOLS = (
    *("torch", "transformers", "gguf", "xllamacpp", "onnx", "onnxscript", "onnxruntime"),
    *("openvino", "mlx", "mlx-lm", "compressed-tensors", "bitsandbytes"),
)
_EXPORTS = {export.target: export for export in (ONNX, OPENVINO, MLX)}
"""Conversions to formats that have runtimes of their own, by target."""
_AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """A converted model or adapter.

    Attributes:
        source: source of the conversion, as it was asked for.
        source_digest: the digest of its files.
        precision: the format of its weights.
        difference: from the source, by name.
        base_model: the base model that registration names: the source of a result in another format than
            transformers', or an adapter's base; empty for an archive, and for results in transformers' layout.
    """

    path: Path
    source: str
    source_digest: str
    target: str
    precision: str
    difference: dict[str, Any]
    base_model: str = ""
    notes: list[str] = field(default_factory=list)


def convert(
    registry: RegistryApi,
    model: str,
    output: Path,
    *,
    to: str,
    precision: str = _AUTO,
    base_model: str | None = None,
    convert_pickle: bool = False,
    overwrite: bool = False,
    on_stage: Callable[[str, float], None] = lambda _stage, _share: None,
) -> ConvertedModel:
    """Convert, measure, and leave a folder that `register` takes.

    Args:
        registry: registry for names.
        model: a folder, GGUF file, wheel or zip file, or name; of a model or of an adapter.
        output: the folder to write.
        to: ``safetensors``, ``gguf``, ``onnx``, ``openvino`` or ``mlx``.
        precision: of the weights; ``auto`` is the source's own, and bf16 for quantized ones.
        base_model: place of an adapter's base, if not the one in its record.
        convert_pickle: read a folder's pickled weights, in a process with limits.
        on_stage: called with the name of a stage, and the share of it that is done.

    Raises:
        ConflictError: ``output`` is taken.
        InputError: the source is unusable, or target and precision don't fit.
        UnsupportedError: a part of it can't be converted.
        IntegrityError: the result differs too much from its source.
    """
    target, precision = check_precision(to, precision)
    is_adapter = not convert_pickle and _is_adapter(registry, model)
    _check_target(output, target, is_adapter=is_adapter)
    if is_adapter:
        parent = find_parent(registry, model, base_model)
        return _convert_adapter(parent, output, precision, overwrite=overwrite)
    if base_model is not None:
        raise InputError("--base-model is for adapters, and this is a model.", hint="Leave it out.")
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(output, overwrite=overwrite))
        scratch = folder.parent
        opened = opened_pickle(model, scratch) if convert_pickle else opened_model(registry, model, scratch)
        source = stack.enter_context(opened)
        made = _converted(source, folder, target, precision, on_stage)
        notes = []
        if target == "gguf" and has_llama_cpp():
            on_stage("reading it in llama.cpp", 0.0)
            check_in_llama_cpp(folder / GGUF_NAME, made.inputs, made.next_tokens)
        elif target == "gguf":
            notes.append("llama.cpp is not installed, so the file was read back by transformers alone.")
        difference = asdict(made.difference)
        _write_records(folder, source, made, difference)
    base = source.reference if target != "safetensors" and source.is_kept else ""
    return ConvertedModel(output, model, source.digest, target, made.precision, difference, base, notes)


def _converted(
    source: ModelSource, folder: Path, target: Target, precision: str, on_stage: Callable[[str, float], None]
) -> Conversion:
    documents = source.documents
    match target:
        case "safetensors" | "gguf":
            return convert_model(
                source.path,
                folder,
                target=target,
                precision=precision,
                name=source.name,
                documents=documents,
                on_stage=on_stage,
            )
        case _:
            return convert_by_export(
                source.path, folder, _EXPORTS[target], precision=precision, documents=documents, on_stage=on_stage
            )


def _check_target(output: Path, target: Target, *, is_adapter: bool) -> None:
    if output.suffix.lower() == ".gguf":
        raise InputError(
            f"The output is a folder, and {str(output)!r} is called like a file.", hint=f"Say {output.with_suffix('')}."
        )
    if is_adapter and target != "gguf":
        raise UnsupportedError(
            f"An adapter is in safetensors already; it is converted to gguf, not to {target}.",
            hint="Merge it into its base with `llamafarm models merge`.",
        )


def _is_adapter(registry: RegistryApi, model: str) -> bool:
    folder = Path(model).expanduser()
    if folder.exists():
        return (folder / "adapter_config.json").is_file()
    try:
        return registry.resolve(model).registered.kind is ModelKind.ADAPTER
    except LlamaFarmError:  # a name of the hub, or of nothing: whoever looks for models says so
        return False


def _write_records(folder: Path, source: ModelSource, made: Conversion, difference: dict[str, object]) -> None:
    facts = {"converted": source.reference, "to": made.target, "precision": made.precision}
    record = {"source": source.reference, "source_digest": source.digest, **facts, "difference": difference}
    record |= {"pickles": source.pickles} if source.pickles else {}
    write_conversion(folder, RECORD_NAME, record)
    lineage = {"derived_from": [source.digest], "parameters": facts | {"difference": difference}}
    write_record(folder, method="", made_by="convert", lineage=lineage, check=difference)


def _convert_adapter(parent: Parent, output: Path, precision: str, *, overwrite: bool) -> ConvertedModel:
    if precision not in {_AUTO, "fp16", "fp32"}:
        raise InputError(f"An adapter is not written in {precision}.", hint="Use auto, fp16 or fp32.")
    check_convertible(parent.folder)
    prove_adapter(parent.folder, parent.base.folder)
    chosen = "fp32" if precision == "fp32" else "fp16"
    with new_folder(output, overwrite=overwrite) as folder:
        largest = write_gguf_lora(
            parent.folder,
            bare_model(parent.base.folder),
            folder / ADAPTER_NAME,
            name=parent.folder.name,
            base_name=parent.base.name,
            half=chosen == "fp16",
        )
        difference = {"largest_update_difference": largest}
        facts = {"converted": parent.reference, "to": "gguf", "precision": chosen}
        base = {"base_model": parent.base.reference, "base_digest": parent.base.digest}
        record = {"source": parent.reference, "source_digest": parent.digest, **base, **facts, "difference": difference}
        write_conversion(folder, RECORD_NAME, record)
        # No base: the file is served on the base's GGUF file, which whoever registers it may name instead.
        lineage = {"derived_from": [parent.digest], "parameters": facts | {"difference": difference}}
        write_record(folder, method=parent.method or "lora", made_by="convert", lineage=lineage, check=difference)
    return ConvertedModel(
        output, parent.reference, parent.digest, "gguf", chosen, difference, base_model=parent.base.reference
    )


def write_conversion(folder: Path, file_name: str, record: Mapping[str, object]) -> None:
    """Write the record of a conversion, with the versions of tools that may have made it."""
    tools = {"llamafarm_ray": __version__}
    for name in _TOOLS:
        try:
            tools[name] = version(name)
        except PackageNotFoundError:
            continue
    text = json.dumps({**record, "tools": tools}, indent=2) + "\n"
    (folder / file_name).write_text(text, encoding="utf-8")
