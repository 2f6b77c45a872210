"""Conversion to OpenVINO by way of ONNX, measured in OpenVINO's runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from llamafarm_ray.models.convert.conversion import Conversion
from llamafarm_ray.models.convert.exports.onnx_file import check_can_export, write_onnx_model
from llamafarm_ray.models.convert.exports.openvino_file import (
    OPENVINO_LAYERS_NAME,
    OpenvinoModel,
    check_has_openvino,
    write_openvino_model,
)
from llamafarm_ray.models.convert.measure import Outputs
from llamafarm_ray.models.folder import OPENVINO_NAME
from llamafarm_ray.workflows.models.exported import convert_by_export, in_parts
from llamafarm_ray.workflows.models.onnx_runtime import graph_precision

__all__ = ["convert_to_openvino"]


def convert_to_openvino(
    source: Path,
    output: Path,
    *,
    precision: str = "auto",
    documents: Path | None = None,
    on_stage: Callable[[str, float], None] = lambda _stage, _share: None,
) -> Conversion:
    """Write a model for OpenVINO, and compare its outputs in OpenVINO with those of the source.

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
    check_has_openvino()
    check_can_export()
    return convert_by_export(
        source,
        output,
        target="openvino",
        choose=graph_precision(precision),
        write=_write,
        run=_run,
        documents=documents,
        on_stage=on_stage,
    )


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
