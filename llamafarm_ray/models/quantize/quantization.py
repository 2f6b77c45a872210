"""Quantization of one model: packed, read back and compared before it is published."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.models.convert.calibration import calibration_samples
from llamafarm_ray.models.convert.conversion import DTYPES, check_tokens, convert_model, copy_companions, read_model
from llamafarm_ray.models.convert.measure import (
    Difference,
    check_difference,
    compare,
    measured_inputs,
    run_model,
)
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.quantize.packing import check_linear, pack_compressed_tensors, pack_nf4
from llamafarm_ray.models.quantize.quality import Budget
from llamafarm_ray.models.quantize.schemes import Scheme
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries

__all__ = ["Quantization", "check_calibration", "quantize_model"]

Stage = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Quantization:
    """A quantized model, measured against its source.

    Attributes:
        difference: from the source.
        num_samples: texts that the rounding was fitted to; 0 if weights were rounded to the nearest.
        inputs: the token ids that both forms were given, by text; of GGUF files only.
        next_tokens: see `llamafarm_ray.models.convert.conversion.Conversion`; of GGUF files only.
    """

    scheme: Scheme
    difference: Difference
    size_bytes: int
    source_bytes: int
    num_samples: int = 0
    inputs: tuple[tuple[int, ...], ...] = ()
    next_tokens: tuple[int, ...] = ()


def quantize_model(
    source: Path,
    output: Path,
    scheme: Scheme,
    *,
    name: str = "model",
    documents: Path | None = None,
    calibration: Sequence[str] = (),
    budget: Budget | None = None,
    on_stage: Stage = lambda _stage, _share: None,
) -> Quantization:
    """Write a model's quantized form, and compare the result with the source.

    Args:
        source: a folder in transformers' layout; for GGUF schemes also a GGUF file.
        output: an existing folder; after an error it holds parts.
        name: name of the model in a GGUF file.
        documents: the folder of the model's licence and card; by default the source, where it is a folder.
        calibration: texts that the rounding is fitted to; without any, weights are rounded to the nearest.
        budget: the caller's bound for the result, instead of the scheme's own.
        on_stage: called with the name of a stage, and the share of it that is done.

    Raises:
        InputError: the source is unusable.
        UnsupportedError: the scheme can't hold the model, or can't be fitted to texts.
        IntegrityError: without a budget: the result differs from the source by more than the scheme may cost.
    """
    check_calibration(scheme, calibration=bool(calibration))
    if scheme.family == "gguf":
        made = convert_model(
            source,
            output,
            target="gguf",
            precision=scheme.precision,
            name=name,
            documents=documents,
            calibration=calibration,
            bounded=budget is None,
            on_stage=on_stage,
        )
        sizes = _weights_bytes(output), _weights_bytes(source)
        return Quantization(scheme, made.difference, *sizes, made.num_samples, made.inputs, made.next_tokens)
    if source.is_file():
        raise UnsupportedError(
            f"Scheme {scheme.name} packs weights in transformers' layout, and {str(source)!r} is a GGUF file.",
            hint="Convert it with `llamafarm models convert --to safetensors` first, or use a GGUF scheme.",
        )
    difference, num_samples = _packed(source, output, scheme, calibration, on_stage)
    if budget is None:
        check_difference(difference, scheme.bound, converted=f"The model by scheme {scheme.name}", change="--scheme")
    return Quantization(scheme, difference, _weights_bytes(output), _weights_bytes(source), num_samples)


def check_calibration(scheme: Scheme, *, calibration: bool) -> None:
    """Check that a scheme's rounding can be fitted to texts, if that is asked for.

    Raises:
        UnsupportedError: it can't.
    """
    if calibration and not scheme.takes_calibration:
        raise UnsupportedError(
            f"Scheme {scheme.name} rounds each weight by itself; there is nothing to calibrate.",
            hint="Leave out --calibration, or use int4, int8, w8a8 or a GGUF scheme of fewer than 8 bits.",
        )


def _packed(
    source: Path, output: Path, scheme: Scheme, calibration: Sequence[str], on_stage: Stage
) -> tuple[Difference, int]:
    on_stage("reading", 0.0)
    model, tokenizer, own = read_model(source)
    config = model.config
    check_linear(model)
    on_stage("measuring the source", 0.0)
    inputs = measured_inputs(tokenizer, config)
    before = run_model(model, inputs)
    on_stage("quantizing", 0.0)
    quiet_libraries()  # saving imports DeepSpeed
    samples: list[torch.Tensor] = []
    if scheme.family == "bitsandbytes":
        del model
        gc.collect()
        pack_nf4(source, output, dtype=DTYPES[own])
    else:
        samples = calibration_samples(tokenizer, config, calibration)
        pack_compressed_tensors(
            model,
            scheme,
            output,
            dtype=DTYPES[own],
            samples=samples,
            on_progress=lambda share: on_stage("quantizing", share),
        )
        del model
        gc.collect()  # a large model need not be in memory twice
    copy_companions(source, output)
    on_stage("measuring the result", 0.0)
    check_tokens(inputs, measured_inputs(load_tokenizer(output), config))
    after = run_model(load_model(output, dtype=torch.float32).eval(), inputs)
    return compare(before, after), len(samples)


def _weights_bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.iterdir() if one.suffix in {".safetensors", ".gguf"})
