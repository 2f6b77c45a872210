"""Conversion to ONNX, measured in the engine that serves the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from llamafarm_ray.models.convert.conversion import Conversion
from llamafarm_ray.models.convert.exports.onnx_file import LAYERS_NAME, check_can_export, write_onnx_model
from llamafarm_ray.models.convert.measure import Outputs
from llamafarm_ray.serving.engines.onnx import layer_outputs, onnx_decoder
from llamafarm_ray.workflows.models.exported import convert_by_export, in_parts

__all__ = ["convert_to_onnx", "graph_precision"]

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
    return convert_by_export(
        source,
        output,
        target="onnx",
        choose=graph_precision(precision),
        write=write_onnx_model,
        run=_run,
        documents=documents,
        on_stage=on_stage,
    )


def graph_precision(asked: str) -> Callable[[str], str]:
    """Return a choice of a graph's precision: the one that is asked for, else fp16 for a source in fp16, else fp32."""
    return lambda own: asked if asked != _AUTO else "fp16" if own == "fp16" else "fp32"


def _run(folder: Path, inputs: Sequence[torch.Tensor]) -> Outputs:
    """Run a model on the measured texts in ONNX Runtime, and remove the file that is for the measurement alone."""
    decoder = onnx_decoder(folder)
    found = []
    for ids in inputs:
        cache = decoder.new_cache()
        logits = [decoder.logits(part, cache, all_of_them=True) for part in in_parts(ids)]
        found.append(torch.cat(logits).float().log_softmax(-1))
    hidden = layer_outputs(folder / LAYERS_NAME, inputs[-1].tolist())
    (folder / LAYERS_NAME).unlink()
    return Outputs(inputs, found, hidden)
