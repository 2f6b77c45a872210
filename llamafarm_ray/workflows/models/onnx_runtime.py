"""Conversion to ONNX, measured in the engine that serves the file."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llamafarm_ray.models.convert.conversion import (
    Conversion,
    bound_of,
    check_tokens,
    copy_configuration,
    read_model,
    write_companions,
)
from llamafarm_ray.models.convert.measure import Outputs, check_difference, compare, measured_inputs, run_model
from llamafarm_ray.models.convert.onnx_file import LAYERS_NAME, check_can_export, write_onnx_model
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.serving.engines.onnx import layer_outputs, onnx_decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["convert_to_onnx", "run_in_onnx_runtime"]

_AUTO = "auto"


def convert_to_onnx(
    source: Path,
    output: Path,
    *,
    precision: str = _AUTO,
    documents: Path | None = None,
    on_stage: Callable[[str, float], None] = lambda _stage, _share: None,
) -> Conversion:
    """Write a model as an ONNX file, and compare its outputs in ONNX Runtime with those of the source.

    Args:
        source: a GGUF file, or a folder in transformers' layout.
        output: an existing folder; after an error it holds parts.
        precision: fp32 or fp16; ``auto`` is fp16 for a source in fp16, and else fp32.
        documents: the folder of the model's licence and card; by default the source, where it is a folder.
        on_stage: called with the name of a stage, and the share of it that is done.

    Raises:
        InputError: the source is unusable.
        UnsupportedError: it can't be exported, or a library is missing.
        IntegrityError: the result answers differently.
    """
    check_can_export()
    on_stage("reading", 0.0)
    model, tokenizer, own = read_model(source)
    chosen = precision if precision != _AUTO else "fp16" if own == "fp16" else "fp32"
    on_stage("measuring the source", 0.0)
    config = model.config
    inputs = measured_inputs(tokenizer, config)
    before = run_model(model, inputs)
    _write_configuration(model, source, output)
    write_companions(tokenizer, source, output, documents)
    del model
    gc.collect()  # the exporter reads the model in a process of its own
    on_stage("writing", 0.0)
    write_onnx_model(source, output, chosen)
    on_stage("measuring the result", 0.0)
    check_tokens(inputs, measured_inputs(load_tokenizer(output), config))
    after = run_in_onnx_runtime(output, inputs)
    (output / LAYERS_NAME).unlink()
    difference = compare(before, after)
    check_difference(difference, bound_of("onnx", chosen), converted=f"The model in onnx at {chosen}")
    return Conversion("onnx", chosen, difference, tuple(tuple(ids.tolist()) for ids in inputs), after.clear_tokens)


def run_in_onnx_runtime(folder: Path, inputs: Sequence[torch.Tensor]) -> Outputs:
    """Run a model on the measured texts as the engine serves it: a part, then more of it on the cache of that.

    Args:
        folder: a folder that `write_onnx_model` wrote.
        inputs: token ids, see `measured_inputs`.

    Raises:
        InputError: ONNX Runtime can't load or compute the file.
    """
    decoder = onnx_decoder(folder)
    found = []
    for ids in inputs:
        tokens, half = ids.tolist(), (len(ids) + 1) // 2
        cache = decoder.new_cache()
        parts = [tokens[:half], tokens[half:-1], tokens[-1:]]
        logits = [decoder.logits(part, cache, all_of_them=True) for part in parts if part]
        found.append(torch.cat(logits)[: len(tokens)].float().log_softmax(-1))
    return Outputs(inputs, found, layer_outputs(folder / LAYERS_NAME, inputs[-1].tolist()))


def _write_configuration(model: PreTrainedModel, source: Path, output: Path) -> None:
    if source.is_file():
        model.config.save_pretrained(str(output))
        model.generation_config.save_pretrained(str(output))
    else:
        copy_configuration(source, output)
