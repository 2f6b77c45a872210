"""Conversion to OpenVINO by way of ONNX, measured in OpenVINO's runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from llamafarm_ray.models.convert.exports.onnx_file import check_can_export, write_onnx_model
from llamafarm_ray.models.convert.exports.openvino_file import (
    OPENVINO_LAYERS_NAME,
    OpenvinoModel,
    check_has_openvino,
    write_openvino_model,
)
from llamafarm_ray.models.convert.measure import Outputs
from llamafarm_ray.models.folder import OPENVINO_NAME
from llamafarm_ray.workflows.models.exported import Export, in_parts
from llamafarm_ray.workflows.models.onnx_runtime import graph_precision

__all__ = ["OPENVINO"]


def _check() -> None:
    check_has_openvino()
    check_can_export()


def _write(source: Path, folder: Path, precision: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as exported:
        write_onnx_model(source, Path(exported), "fp32")  # which OpenVINO rounds itself
        write_openvino_model(Path(exported), folder, precision)


def _run(folder: Path, inputs: Sequence[torch.Tensor]) -> Outputs:
    """Run a model on the measured texts, and remove the files that are for the measurement alone."""
    model, layers = OpenvinoModel(folder / OPENVINO_NAME), folder / OPENVINO_LAYERS_NAME
    found = [model.logits(in_parts(ids)).log_softmax(-1) for ids in inputs]
    hidden = OpenvinoModel(layers).layer_outputs(inputs[-1].tolist())
    layers.unlink()
    layers.with_suffix(".bin").unlink()
    return Outputs(inputs, found, hidden)


OPENVINO = Export("openvino", _check, graph_precision, _write, _run)
