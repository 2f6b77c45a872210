"""Conversion to MLX, measured in MLX on the device that it chooses."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from llamafarm_ray.models.convert.conversion import read_model
from llamafarm_ray.models.convert.exports.mlx_file import MlxModel, check_has_mlx, write_mlx_model
from llamafarm_ray.models.convert.measure import Outputs
from llamafarm_ray.workflows.models.exported import AUTO, Export, in_parts

__all__ = ["MLX"]


def _precision(asked: str, own: str) -> str:
    return own if asked == AUTO else asked


def _write(source: Path, folder: Path, precision: str) -> None:
    if source.is_dir():
        write_mlx_model(source, folder, precision)
        return
    with tempfile.TemporaryDirectory(dir=folder) as expanded:
        read_model(source)[0].save_pretrained(expanded)
        write_mlx_model(Path(expanded), folder, precision)


def _run(folder: Path, inputs: Sequence[torch.Tensor]) -> Outputs:
    model = MlxModel(folder)
    found = [model.logits(in_parts(ids)).log_softmax(-1) for ids in inputs]
    return Outputs(inputs, found, model.layer_outputs(inputs[-1].tolist()))


MLX = Export("mlx", check_has_mlx, _precision, _write, _run)
