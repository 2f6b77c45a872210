"""Conversion by an exporter that reads the model itself; the result is measured in the runtime of its format."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llamafarm_ray.models.convert.conversion import (
    Conversion,
    Target,
    bound_of,
    check_tokens,
    copy_configuration,
    read_model,
    write_companions,
)
from llamafarm_ray.models.convert.measure import Outputs, check_difference, compare, measured_inputs, run_model
from llamafarm_ray.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["AUTO", "Export", "convert_by_export", "in_parts"]

AUTO = "auto"
"""The precision that a format chooses by that of the source."""


@dataclass(frozen=True)
class Export:
    """A format that is written by an exporter, and the runtime that measures what was written.

    Attributes:
        target: the format.
        check: raises UnsupportedError where a library is missing.
        choose: returns the precision of the result, given the one that was asked for (or ``auto``) and the source's.
        write: writes a source into a folder in a precision.
        run: computes the measured texts with what ``write`` left in a folder.
    """

    target: Target
    check: Callable[[], None]
    choose: Callable[[str, str], str]
    write: Callable[[Path, Path, str], None]
    run: Callable[[Path, Sequence[torch.Tensor]], Outputs]


def convert_by_export(
    source: Path,
    output: Path,
    export: Export,
    *,
    precision: str = AUTO,
    documents: Path | None = None,
    on_stage: Callable[[str, float], None] = lambda _stage, _share: None,
) -> Conversion:
    """Write a model in another format, and compare its outputs in that format's runtime with those of the source.

    Args:
        source: a GGUF file, or a folder in transformers' layout.
        output: an existing folder; after an error it holds parts.
        documents: the folder of the model's licence and card; by default the source, where it is a folder.
        on_stage: called with the name of a stage, and the share of it that is done.

    Raises:
        InputError: the source is unusable.
        UnsupportedError: it can't be exported, or a library is missing.
        IntegrityError: the result answers differently.
    """
    export.check()
    on_stage("reading", 0.0)
    model, tokenizer, own = read_model(source)
    chosen = export.choose(precision, own)
    on_stage("measuring the source", 0.0)
    config = model.config
    inputs = measured_inputs(tokenizer, config)
    before = run_model(model, inputs)
    _write_configuration(model, source, output)
    write_companions(tokenizer, source, output, documents)
    del model
    gc.collect()  # the exporter reads the model once more
    on_stage("writing", 0.0)
    export.write(source, output, chosen)
    on_stage("measuring the result", 0.0)
    check_tokens(inputs, measured_inputs(load_tokenizer(output), config))
    after = export.run(output, inputs)
    difference = compare(before, after)
    target = export.target
    check_difference(difference, bound_of(target, chosen), converted=f"The model in {target} at {chosen}")
    return Conversion(target, chosen, difference, tuple(tuple(ids.tolist()) for ids in inputs), after.clear_tokens)


def in_parts(ids: torch.Tensor) -> list[list[int]]:
    """Return a text as an engine computes it: a half, then more on the cache of that, then one token more."""
    tokens, half = ids.tolist(), (len(ids) + 1) // 2
    return [part for part in (tokens[:half], tokens[half:-1], tokens[-1:]) if part]


def _write_configuration(model: PreTrainedModel, source: Path, output: Path) -> None:
    if source.is_file():
        model.config.save_pretrained(str(output))
        model.generation_config.save_pretrained(str(output))
    else:
        copy_configuration(source, output)
