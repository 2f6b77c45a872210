"""A model examined by the headers of its files: nothing is unpickled, and no weights are read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from llamafarm_ray.errors import InputError, LlamaFarmError
from llamafarm_ray.models.folder import OPENVINO_NAME, TOKENIZER_FILES
from llamafarm_ray.models.formats.card import card_of_gguf, read_card
from llamafarm_ray.models.formats.comparison import Comparison
from llamafarm_ray.models.formats.files import ModelFiles
from llamafarm_ray.models.formats.packed_count import count_parameters
from llamafarm_ray.models.formats.pickle_imports import pickle_imports
from llamafarm_ray.storage.formats.gguf import GgufHeader, GgufTensor, read_gguf_header
from llamafarm_ray.storage.formats.pickles import PICKLE_SUFFIXES
from llamafarm_ray.storage.formats.safetensors import TensorEntry, read_tensor_list
from llamafarm_ray.storage.formats.shards import INDEX, missing_shards, read_weight_map

if TYPE_CHECKING:
    import torch

__all__ = ["MEMORY_PRECISIONS", "Inspection", "inspect_files"]

MEMORY_PRECISIONS = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5}
"""Bytes of a parameter, by precision."""

_NOT_ASKED = "that was not asked for"
_MAX_TEXT_BYTES = 1 << 26
_SHOWN_NAMES = 20
_SHOWN_PROBLEMS = 3
_SKIPPED_BYTES = 1 << 16
_ENCODER_DECODERS = frozenset(
    {"t5", "mt5", "umt5", "longt5", "bart", "mbart", "pegasus", "marian", "whisper", "m2m_100"}
)
"""Families whose classes say ``is_encoder_decoder`` where their config.json does not."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Facts of a model.

    Attributes:
        format: ``safetensors``, ``gguf``, or ``mlx`` for safetensors whose weights MLX packed.
        architecture: the class that transformers makes, or GGUF's name.
        model_type: transformers' name of the family; empty where it has none.
        num_parameters: parameters, tied ones once.
        weight_bytes: size of the tensors by their type.
        comparison: the tensors beside those that the architecture has.
        tokenizer: kind of tokenizer; empty if there is none.
        num_tokens: its tokens; ``None`` where they are not known.
        has_chat_template: True if chats can be written for it.
        context_length: the longest text that it was made for, in tokens; ``None`` where it is not said.
        memory_bytes: memory of the weights by precision.
        card: facts of the model card, or a GGUF file's own: licence, languages, base model, ...
        is_adapter: True for a low-rank update of another model.
        missing_files: files that the index of the weights names, and that are not there.
        quantization: ``quantization_config`` of quantized weights in transformers' layout.
        adapter_config: configuration of an adapter in peft's layout.
        is_encoder_decoder: True if an encoder reads a text before a decoder writes one.
    """

    format: str
    architecture: str
    model_type: str
    num_parameters: int
    num_tensors: int
    weight_bytes: Mapping[str, int]
    comparison: Comparison
    tokenizer: str
    num_tokens: int | None
    has_chat_template: bool
    context_length: int | None
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    is_adapter: bool = False
    missing_files: tuple[str, ...] = ()
    quantization: Mapping[str, Any] = field(default_factory=dict)
    adapter_config: Mapping[str, Any] = field(default_factory=dict)
    is_encoder_decoder: bool = False

    @property
    def problems(self) -> list[str]:
        """Sentences about faults of the files; none if they fit the architecture."""
        unexpected = self.comparison.unexpected
        return self.faults + _told(((unexpected, "tensors belong to no part of the architecture"),))

    @property
    def faults(self) -> list[str]:
        """The problems that keep the model from answering; unread tensors are not among them."""
        compared = self.comparison
        return _told(
            (
                (self.missing_files, "files of the weights are missing"),
                (compared.missing, "tensors are missing"),
                (compared.misshapen, "tensors have another shape"),
            )
        )


def _told(kinds: Iterable[tuple[Sequence[str], str]]) -> list[str]:
    return [
        f"{len(names)} {said}: {', '.join(names[:_SHOWN_PROBLEMS])}{', ...' if len(names) > _SHOWN_PROBLEMS else ''}."
        for names, said in kinds
        if names
    ]


def inspect_files(files: ModelFiles, *, shown: str, compare: bool = True) -> Inspection:
    """Inspect the files of one model.

    Args:
        files: the files to read.
        shown: the model's name in errors.
        compare: hold the tensors against the architecture, for which torch and transformers are imported.

    Raises:
        InputError: there are no weights, they are pickled (the message has the names that would be imported), or a
            header breaks its format.
    """
    names = files.sizes
    weights = [name for name in names if name.endswith(".safetensors")]
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    if weights:
        return _of_safetensors(files, weights, shown, compare=compare)
    if len(ggufs) == 1:
        return _of_gguf(files, ggufs[0], compare=compare)
    if OPENVINO_NAME in names:
        raise InputError(
            f"{shown!r} is an OpenVINO model, whose files are not inspected.",
            hint="Inspect the model that it was converted from.",
        )
    _refuse_pickles(files, shown)
    what = f"several GGUF files: {', '.join(sorted(ggufs)[:3])}" if ggufs else "neither safetensors nor a GGUF file"
    raise InputError(f"{shown!r} holds {what}.", hint="Give the folder or the file of one model.")


def _refuse_pickles(files: ModelFiles, shown: str) -> None:
    for name in files.sizes:
        if PurePosixPath(name).suffix.lower() not in PICKLE_SUFFIXES:
            continue
        with files.open(name) as file:
            imports = pickle_imports(file)
        listed = ", ".join(imports[:_SHOWN_NAMES]) + (", ..." if len(imports) > _SHOWN_NAMES else "")
        raise InputError(
            f"{shown!r} has its weights in {name}, a pickle, which can run code when it is loaded. It would import: "
            f"{listed or 'nothing that can be listed'}.",
            hint="Take the model in safetensors, or use `llamafarm models convert --to safetensors --convert-pickle`.",
        )


def _of_safetensors(files: ModelFiles, weights: list[str], shown: str, *, compare: bool) -> Inspection:
    found: dict[str, TensorEntry] = {}
    sizes: Counter[str] = Counter()
    for name in weights:
        with files.open(name) as file:
            for tensor in read_tensor_list(file, files.sizes[name], shown=name):
                if tensor.name in found:
                    raise InputError(f"{shown!r} has the tensor {tensor.name!r} in two files.", hint="Keep one.")
                if 0 in tensor.shape:
                    raise InputError(f"The tensor {tensor.name!r} of {shown!r} is empty.", hint="Download it again.")
                found[tensor.name] = tensor
                sizes[tensor.dtype] += tensor.end - tensor.begin
    config = _json(files, "config.json")
    shapes = {name: tensor.shape for name, tensor in found.items()}
    is_adapter = "adapter_config.json" in files.sizes
    if is_adapter or not config:
        compared = Comparison(unchecked="it is an adapter" if is_adapter else "there is no config.json")
    elif compare:
        from llamafarm_ray.models.formats.expected import compare_with_config  # torch

        compared = compare_with_config(config, shapes)
    else:
        compared = Comparison(unchecked=_NOT_ASKED)
    weight_map = _weight_map(files)
    absent = set(compared.missing).union(name for name in weight_map if name not in shapes)
    quantization = _object(config, "quantization_config")
    num_parameters = compared.num_parameters or count_parameters(found.values(), quantization)
    text = _object(config, "text_config") or config
    tokenizer_config = _json(files, "tokenizer_config.json")
    model = _object(_json(files, "tokenizer.json"), "model")
    return Inspection(
        format="mlx" if "group_size" in _object(config, "quantization") else "safetensors",
        architecture=", ".join(map(str, config.get("architectures") or [])),
        model_type=str(config.get("model_type", "")),
        num_parameters=num_parameters,
        num_tensors=len(shapes),
        weight_bytes=dict(sizes),
        comparison=replace(compared, missing=tuple(sorted(absent))),
        tokenizer=str(model.get("type") or ("files" if set(TOKENIZER_FILES[:2]) & set(files.sizes) else "")),
        num_tokens=len(model["vocab"]) if isinstance(model.get("vocab"), dict | list) else None,
        has_chat_template="chat_template.jinja" in files.sizes or bool(tokenizer_config.get("chat_template")),
        context_length=_number(text, "max_position_embeddings", "n_positions"),
        memory_bytes=_memory(num_parameters),
        card=read_card(files),
        is_adapter=is_adapter,
        missing_files=tuple(missing_shards(INDEX, weight_map, files.sizes)),
        quantization=quantization,
        adapter_config=_json(files, "adapter_config.json"),
        is_encoder_decoder=bool(config.get("is_encoder_decoder")) or config.get("model_type") in _ENCODER_DECODERS,
    )


def _weight_map(files: ModelFiles) -> dict[str, str]:
    """Return the file of each tensor by the index that loading reads; nothing where there is none."""
    size = files.sizes.get(INDEX)
    if size is None or "model.safetensors" in files.sizes:
        return {}
    with files.open(INDEX) as file:
        return read_weight_map(file.read(min(size, _MAX_TEXT_BYTES)), shown=INDEX)


def _of_gguf(files: ModelFiles, name: str, *, compare: bool) -> Inspection:
    from gguf import GGMLQuantizationType  # it imports mistral-common, which takes seconds

    with files.open(name) as file:
        header = read_gguf_header(file, files.sizes[name], shown=name)
    facts, sizes = header.facts, Counter[str]()
    for entry in header.entries:
        sizes[GGMLQuantizationType(entry.kind).name] += entry.size_bytes
    stored = sum(math.prod(entry.shape) for entry in header.entries)
    compared, model_type = Comparison(unchecked="it is an adapter" if header.is_adapter else _NOT_ASKED), ""
    if compare and not header.is_adapter:
        compared, model_type = _against_facts(files, name, header)
    num_parameters = compared.num_parameters or stored
    tokens = facts.get("tokenizer.ggml.tokens")
    return Inspection(
        format="gguf",
        architecture=header.architecture,
        model_type=model_type,
        num_parameters=num_parameters,
        num_tensors=len(header.entries),
        weight_bytes=dict(sizes),
        comparison=compared,
        tokenizer=str(facts.get("tokenizer.ggml.model", "")),
        num_tokens=len(tokens) if isinstance(tokens, list) else None,
        has_chat_template=isinstance(facts.get("tokenizer.chat_template"), str),
        context_length=_number({"length": header.of_architecture("context_length")}, "length"),
        memory_bytes=_memory(num_parameters),
        card=card_of_gguf(facts) | read_card(files),
        is_adapter=header.is_adapter,
    )


def _against_facts(files: ModelFiles, name: str, header: GgufHeader) -> tuple[Comparison, str]:
    import numpy as np  # as below

    from llamafarm_ray.models.convert.gguf_model import decoded, gguf_config  # torch
    from llamafarm_ray.models.formats.expected import compare_with_facts  # torch

    def read(entry: GgufTensor) -> torch.Tensor:
        with files.open(name) as file:
            _skip(file, entry.begin)
            return decoded(np.frombuffer(file.read(entry.size_bytes), dtype=np.uint8), entry)

    try:
        config = gguf_config(header, read, shown=name)
        return compare_with_facts(config, header.tensors), str(config.model_type)
    except LlamaFarmError as error:
        return Comparison(unchecked=error.message), ""


def _skip(file: Any, num_bytes: int) -> None:
    if file.seekable():
        file.seek(num_bytes)
        return
    while num_bytes > 0 and (data := file.read(min(num_bytes, _SKIPPED_BYTES))):
        num_bytes -= len(data)


def _memory(num_parameters: int) -> dict[str, int]:
    return {name: round(num_parameters * size) for name, size in MEMORY_PRECISIONS.items()}


def _json(files: ModelFiles, name: str) -> dict[str, Any]:
    """Return the values of a JSON file; nothing where there is none.

    Raises:
        InputError: it is too large, or no JSON object.
    """
    size = files.sizes.get(name)
    if size is None:
        return {}
    if size > _MAX_TEXT_BYTES:
        raise InputError(f"{name} has {size} bytes, more than that of any model.", hint="Download it again.")
    with files.open(name) as file:
        data = file.read(size)
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} can't be read as JSON: {error}.", hint="Download it again.") from None
    if not isinstance(values, dict):
        raise InputError(f"{name} holds a JSON {type(values).__name__}, not an object.", hint="Download it again.")
    return values


def _object(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _number(values: Mapping[str, object], *names: str) -> int | None:
    return next((value for name in names if isinstance(value := values.get(name), int)), None)
