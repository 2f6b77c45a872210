"""Conversion to ONNX, measured in the engine that serves the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llamafarm_ray.models.convert.exports.onnx_file import LAYERS_NAME, check_can_export, write_onnx_model
from llamafarm_ray.models.convert.measure import Outputs
from llamafarm_ray.serving.engines.onnx import layer_outputs, onnx_decoder
from llamafarm_ray.workflows.models.exported import AUTO, Export, in_parts

__all__ = ["ONNX", "graph_precision"]


def graph_precision(asked: str, own: str) -> str:
    """Return a graph's precision: the one that is asked for, else fp16 for a source in fp16, else fp32."""
    return asked if asked != AUTO else "fp16" if own == "fp16" else "fp32"


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


ONNX = Export("onnx", check_can_export, graph_precision, write_onnx_model, _run)
