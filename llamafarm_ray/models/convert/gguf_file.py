"""A transformers model as a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.convert.families import Family, family_of_config
from llamafarm_ray.models.convert.precisions import GgufPrecision, tensor_type
from llamafarm_ray.models.convert.quantizing import encoded
from llamafarm_ray.models.convert.rope import rope_facts
from llamafarm_ray.models.convert.tensors import file_tensors, gguf_names, to_gguf
from llamafarm_ray.models.convert.tokenizer_facts import tokenizer_facts

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["write_gguf_model"]

_QUANTIZATION_VERSION = 2
_TOKENIZER = "tokenizer.ggml."
_SEES_A_WINDOW = {"mistral", "mixtral"}
_FRACTIONS = ("_epsilon", "scale", "softcapping")
"""Endings of the names of facts that are fractions, also where a configuration has them as whole numbers."""


def write_gguf_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    precision: GgufPrecision,
    *,
    name: str,
    license_: str = "",
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Write a model with its tokenizer and chat template. One tensor at a time is in memory twice.

    Args:
        model: a causal language model of transformers, unquantized.
        precision: the format of its weights.
        name: name of the model in the file.
        license_: the model's, as an SPDX identifier; empty if it is not known.
        importance: weights of the columns of matrices, by the matrices' names in transformers.
        on_progress: called with the share of tensors that are written.

    Raises:
        UnsupportedError: the model's family, a property of it or its tokenizer can't be written.
        InputError: the model and its tokenizer don't fit each other.
    """
    config = model.config
    family = family_of_config(config)
    family.check(config)
    facts, factors = rope_facts(config)
    writer = GGUFWriter(path, family.architecture)
    writer.add_type("model")
    writer.add_name(name)
    if license_:
        writer.add_license(license_)
    writer.add_file_type(precision.file_type)
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    for key, value in (_facts(config, family) | facts).items():
        _add(writer, f"{family.architecture}.{key}", value)
    _add_tokenizer(writer, model, tokenizer)
    _write_tensors(writer, model, family, precision, factors, importance=importance or {}, on_progress=on_progress)


def _facts(config: PreTrainedConfig, family: Family) -> dict[str, object]:
    facts = {fact: getattr(config, attribute, None) for fact, attribute in family.fields.items()}
    if facts.get("feed_forward_length") is None:  # GPT-2's, which is four times the width then
        facts["feed_forward_length"] = 4 * config.hidden_size
    facts |= {fact: value_of(config) for fact, value_of in family.written.items()}
    if missing := [family.fields[fact] for fact, value in facts.items() if value is None]:
        raise InputError(f"The model's config.json has no {missing[0]}.", hint="Take the model's own config.json.")
    facts |= {fact: getattr(config, attribute, None) for fact, attribute in family.optional.items()}
    if "attention.key_length" in facts:
        facts["attention.value_length"] = facts["attention.key_length"]
    if config.model_type in _SEES_A_WINDOW and config.sliding_window:  # llama.cpp's attention sees the whole text
        facts["context_length"] = min(facts["context_length"], config.sliding_window)
    facts["vocab_size"] = config.vocab_size
    return {
        fact: float(value) if fact.endswith(_FRACTIONS) else value for fact, value in facts.items() if value is not None
    }


def _add_tokenizer(writer: GGUFWriter, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    ends = getattr(model.generation_config, "eos_token_id", None)
    end_ids = ends if isinstance(ends, list) else [ends] if ends is not None else []
    num_tokens = model.get_input_embeddings().weight.shape[0]
    for key, value in tokenizer_facts(tokenizer, num_tokens, end_ids).items():
        _add(writer, f"{_TOKENIZER}{key}", value)
    template = tokenizer.chat_template
    if isinstance(template, str):
        writer.add_chat_template(template)
    elif isinstance(template, Mapping):
        writer.add_chat_template([{"name": key, "template": text} for key, text in template.items()])


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case [int(), *_]:
            writer.add_key_value(key, value, GGUFValueType.ARRAY, GGUFValueType.INT32)
        case [float(), *_]:
            writer.add_key_value(key, value, GGUFValueType.ARRAY, GGUFValueType.FLOAT32)
        case _:
            writer.add_array(key, value)


def _write_tensors(
    writer: GGUFWriter,
    model: PreTrainedModel,
    family: Family,
    precision: GgufPrecision,
    factors: Mapping[str, NDArray[np.float32]],
    *,
    importance: Mapping[str, NDArray[np.float32]],
    on_progress: Callable[[float], None],
) -> None:
    config, state = model.config, file_tensors(model)
    tied, num_layers = bool(config.tie_word_embeddings), config.num_hidden_layers
    names = gguf_names(family, num_layers, state)
    kinds = {}
    for name, tensor in state.items():
        shape = tuple(reversed(tensor.shape)) if _is_turned(family, name) else tuple(tensor.shape)
        kinds[name] = tensor_type(precision, names[name], shape, num_layers, tied=tied)
        _announce(writer, names[name], shape, kinds[name])
    for name, values in factors.items():
        _announce(writer, name, values.shape, gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for number, (name, tensor) in enumerate(state.items(), 1):
        values = to_gguf(family, config, name, tensor.detach().float()).contiguous().numpy()
        writer.write_tensor_data(encoded(values, kinds[name], importance.get(name)))
        on_progress(number / len(state))
    for values in factors.values():
        writer.write_tensor_data(values)
    writer.close()


def _is_turned(family: Family, name: str) -> bool:
    return bool(family.transposed) and name.endswith(family.transposed)


def _announce(writer: GGUFWriter, name: str, shape: Sequence[int], kind: gguf.GGMLQuantizationType) -> None:
    num_values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    size_bytes = int(np.prod(shape)) // num_values * block_bytes
    writer.add_tensor_info(name, tuple(shape), np.dtype(np.float32), size_bytes, raw_dtype=kind)
