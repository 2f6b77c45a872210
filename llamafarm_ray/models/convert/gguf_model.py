"""A GGUF file as a transformers model: its configuration, its weights, and the tokens that end an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.initialization import no_init_weights

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.convert.families import Family, family_of_file
from llamafarm_ray.models.convert.rope import ROPE_TENSORS, rope_parameters
from llamafarm_ray.models.convert.tensors import file_tensors, from_gguf, gguf_names
from llamafarm_ray.models.foreign import UNREADABLE, first_line
from llamafarm_ray.storage.formats.gguf import GgufHeader, GgufTensor, read_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["decoded", "gguf_config", "load_gguf_model", "read_tensor"]

_HINT = "Convert the original model again, or download the file again."
_NUM_NAMED = 3
_IDS = {"bos": "bos", "eos": "eos", "pad": "padding"}
_ENDS = ("eos", "eot", "eom")
_KEY_LENGTH = "attention.key_length"
_UNDERSTOOD = frozenset(
    {
        *("vocab_size", "tensor_data_layout", "attention.sliding_window_pattern"),
        *("rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", "rope.dimension_count_swa"),
        *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned"),
    }
)
"""Facts that are read by name, follow from others, or say nothing of the model."""
_INTEGERS = {getattr(gguf.GGMLQuantizationType, f"I{bits}") for bits in (8, 16, 32, 64)}


def load_gguf_model(path: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a GGUF file, with all of its weights in one format.

    Args:
        dtype: the weights' format in memory; quantized ones are expanded.

    Raises:
        InputError: the file is unsound, is an adapter, or lacks facts or tensors.
        UnsupportedError: its architecture, or a property of it, is not converted.
    """
    header = read_gguf(path)
    if header.is_adapter:
        raise InputError(f"{str(path)!r} is an adapter, not a model.", hint="Give the file of the model.")
    family = family_of_file(header)
    config = gguf_config(header, lambda entry: read_tensor(path, entry), shown=str(path))
    attention = {"attn_implementation": "eager"} if getattr(config, "attn_logit_softcapping", None) else {}
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False, **attention)
    _fill(model, path, header, family)
    model.generation_config = _generation_config(header, config)
    model.config.use_cache = False
    return model.eval()


def read_tensor(path: Path, tensor: GgufTensor) -> torch.Tensor:
    """Return a tensor's values in 32 bits, in the order of dimensions that torch has."""
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=tensor.begin, shape=(tensor.size_bytes,))
    return decoded(data, tensor)


def decoded(data: NDArray[np.uint8], tensor: GgufTensor) -> torch.Tensor:
    """Return the values of a tensor, in 32 bits, from its bytes.

    Raises:
        InputError: they are integers.
    """
    kind = gguf.GGMLQuantizationType(tensor.kind)
    if kind in _INTEGERS:
        raise InputError(f"The tensor {tensor.name!r} holds integers, not weights.", hint=_HINT)
    rows = data.reshape(*reversed(tensor.shape[1:]), -1)
    return torch.from_numpy(np.array(gguf.quants.dequantize(rows, kind), dtype=np.float32))


def gguf_config(header: GgufHeader, read: Callable[[GgufTensor], torch.Tensor], *, shown: str) -> PreTrainedConfig:
    """Return the transformers configuration that a file's facts describe.

    Args:
        read: gives a tensor's values; those of rotary positions are asked for.
        shown: the file's name in errors.

    Raises:
        InputError: facts are missing, or make no model.
        UnsupportedError: its architecture, or a fact of it, is not converted.
    """
    family = family_of_file(header)
    fields = {**family.fields, **family.optional}
    values = {attribute: _fact(header, fact, shown) for fact, attribute in fields.items()}
    for fact in ("block_count", "embedding_length", "attention.head_count", "context_length"):
        if not values[fields[fact]]:
            raise InputError(f"{shown!r} lacks the fact {family.architecture}.{fact}.", hint=_HINT)
    head_dim = _head_dim(header, values[fields["embedding_length"]] // values[fields["attention.head_count"]])
    _check_understood(header, fields, head_dim)
    if _KEY_LENGTH in fields:
        values["head_dim"] = head_dim
    names = header.tensors
    values |= {attribute: tensor in names for attribute, tensor in family.biases.items()}
    known = family.computed | {name: value for name, value in values.items() if value is not None} | family.read(header)
    absent = {name: None for name in family.optional.values() if name not in known}
    known |= {f"{name}_token_id": header.facts.get(f"tokenizer.ggml.{fact}_token_id") for name, fact in _IDS.items()}
    if "token_embd.weight" not in names:
        raise InputError(f"{shown!r} has no tensor token_embd.weight.", hint=_HINT)
    known |= {"vocab_size": names["token_embd.weight"][-1], "tie_word_embeddings": "output.weight" not in names}
    if family.is_rotary:
        factors = {one.name: read(one).numpy() for one in header.entries if one.name in ROPE_TENSORS}
        known |= rope_parameters(header.of_architecture, factors, head_dim, family.architecture)
    try:
        config = AutoConfig.for_model(family.model_types[0], **known, **absent)
        for name, value_of in family.derived.items():
            setattr(config, name, value_of(config))
    except UNREADABLE as error:
        raise InputError(f"The facts in {shown!r} make no model: {first_line(error)}", hint=_HINT) from error
    return config


def _check_understood(header: GgufHeader, fields: Mapping[str, str], head_dim: int) -> None:
    """Check that no fact of the architecture would be left out.

    Raises:
        UnsupportedError: one would; the message has its value.
    """
    prefix = f"{header.architecture}."
    same: dict[str, float] = dict.fromkeys((_KEY_LENGTH, "attention.value_length"), head_dim)
    same |= {"attention.causal": True, "rope.scaling.attn_factor": 1.0}
    understood = _UNDERSTOOD | (fields.keys() - same.keys())
    if header.architecture == "phi3":  # whose factor follows from its lengths
        understood |= {"rope.scaling.attn_factor"}
    for key, value in header.facts.items():
        fact = key.removeprefix(prefix)
        if key.startswith(prefix) and value and fact not in understood and value != same.get(fact):
            raise UnsupportedError(
                f"The file has the fact {key} = {str(value)[:80]}, which is not converted.",
                hint="Serve it as it is, with engine gguf.",
            )


def _fact(header: GgufHeader, name: str, shown: str) -> Any:
    """Return a fact of the architecture. Those that are listed by layer must be the same in each."""
    value = header.of_architecture(name)
    if not isinstance(value, list):
        return value
    if len(set(value)) > 1:
        raise InputError(
            f"In {shown!r} the layers differ in {header.architecture}.{name}, which the configuration has once.",
            hint="Serve the file as it is, with engine gguf.",
        )
    return value[0] if value else None


def _head_dim(header: GgufHeader, usual: int) -> int:
    turned = header.of_architecture("rope.dimension_count") if header.architecture == "llama" else None
    return int(header.of_architecture(_KEY_LENGTH) or turned or usual)


def _generation_config(header: GgufHeader, config: PreTrainedConfig) -> object:
    named = dict.fromkeys(header.facts.get(f"tokenizer.ggml.{name}_token_id") for name in _ENDS)
    ends = [index for index in named if index is not None]
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        pad_token_id=config.pad_token_id,
        eos_token_id=ends if len(ends) > 1 else next(iter(ends), None),
    )


@torch.no_grad()
def _fill(model: PreTrainedModel, path: Path, header: GgufHeader, family: Family) -> None:
    """Copy all tensors of a file into a model, and check that none is missing or left over."""
    state = file_tensors(model)
    names = {other: name for name, other in gguf_names(family, model.config.num_hidden_layers, state).items()}
    entries = {entry.name: entry for entry in header.entries if entry.name not in ROPE_TENSORS}
    problems = [
        f"{len(found)} {said}: {', '.join(found[:_NUM_NAMED])}"
        for found, said in (
            ([name for name in names if name not in entries], "are missing"),
            ([name for name in entries if name not in names], "belong to no part of the model"),
        )
        if found
    ]
    if problems:
        raise InputError(f"Of the tensors of {str(path)!r} {'; '.join(problems)}.", hint=_HINT)
    for name, entry in entries.items():
        target = state[names[name]]
        values = from_gguf(family, model.config, names[name], read_tensor(path, entry))
        if values.shape != target.shape:
            raise InputError(
                f"The tensor {name!r} has the shape {list(values.shape)}, and by the file's facts it is "
                f"{list(target.shape)}.",
                hint=_HINT,
            )
        target.copy_(values)
    model.tie_weights()
