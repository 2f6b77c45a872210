"""Conversion to MLX, measured in MLX on the device that it chooses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from llamafarm_ray.models.convert.conversion import Conversion, read_model
from llamafarm_ray.models.convert.exports.mlx_file import MlxModel, check_has_mlx, write_mlx_model
from llamafarm_ray.models.convert.measure import Outputs
from llamafarm_ray.workflows.models.exported import convert_by_export, in_parts

__all__ = ["convert_to_mlx"]

_AUTO = "auto"


def convert_to_mlx(
    source: Path,
    output: Path,
    *,
    precision: str = _AUTO,
    documents: Path | None = None,
    on_stage: Callable[[str, float], None] = lambda _stage, _share: None,
) -> Conversion:
    """Write a model for MLX, and compare its outputs in MLX with those of the source.

    Args:
        source: a GGUF file, or a folder in transformers' layout.
        output: an existing folder; after an error it holds parts.
        precision: fp32, bf16, fp16, int8 or int4; ``auto`` is the source's own, and bf16 for quantized weights.
        documents: the folder of the model's licence and card; by default the source, where it is a folder.
        on_stage: called with the name of a stage, and the share of it that is done.

    Raises:
        InputError: the source is unusable.
        UnsupportedError: MLX has no such model, or is not installed.
        IntegrityError: the result answers differently.
    """
    check_has_mlx()
    return convert_by_export(
        source,
        output,
        target="mlx",
        choose=lambda own: own if precision == _AUTO else precision,
        write=_write,
        run=_run,
        documents=documents,
        on_stage=on_stage,
    )


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
