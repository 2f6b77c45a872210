"""Check that a model's weights are those of its folder: none missing, none left over, none of another shape."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.formats.safetensors import read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LoadingReport", "check_loaded_weights", "other_shapes", "refuse_weights"]

_NUM_NAMED = 3
_STALE_BUFFERS = (".masked_bias", ".attn.bias", ".attention.bias", ".inv_freq", ".position_ids")
"""Endings of masks and positions that older releases of transformers saved, and newer ones compute."""


class LoadingReport(TypedDict):
    """Names of tensors in transformers' report of loading a model; mismatched ones with both shapes."""

    missing_keys: Collection[str]
    unexpected_keys: Collection[str]
    mismatched_keys: Collection[tuple[str, Sequence[int], Sequence[int]]]


def check_loaded_weights(model: PreTrainedModel, report: LoadingReport, folder: Path, *, without_head: bool) -> None:
    """Check transformers' report of loading a model. It fills missing weights with random numbers.

    Args:
        report: the report that transformers returns with ``output_loading_info``.
        folder: the model's, for messages.
        without_head: True if the model has no output head: the folder's may be left over then, and an encoder's
            pooling head, which no vector is taken from, may be missing.

    Raises:
        InputError: the weights are not those that config.json describes; the message has the first names.
    """
    refuse_weights(
        model,
        folder,
        [name for name in report["missing_keys"] if not (without_head and "pooler" in name.split("."))],
        report["unexpected_keys"],
        report["mismatched_keys"],
        without_head=without_head,
    )


def refuse_weights(
    model: PreTrainedModel,
    folder: Path,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Collection[tuple[str, Sequence[int], Sequence[int]]],
    *,
    without_head: bool,
) -> None:
    """Refuse weights with tensors that are missing, left over or of another shape; nothing where there are none.

    Args:
        folder: the model's, for messages.
        missing: names of tensors that no file has.
        unexpected: names of tensors of files; those that any model of the kind may leave over are not counted.
        mismatched: names of tensors with their shapes in the files, and in the model.
        without_head: see `check_loaded_weights`.

    Raises:
        InputError: there are some; the message has the first names.
    """
    left_over = [
        name
        for name in unexpected
        if not name.endswith(_STALE_BUFFERS) and not (without_head and _is_of_a_head(name, model))
    ]
    shapes = [f"{name} ({list(found)} instead of {list(wanted)})" for name, found, wanted in mismatched]
    problems = [
        f"{len(names)} {said}: {_listed(names)}"
        for names, said in (
            (missing, "are missing"),
            (left_over, "belong to no part of the model"),
            (shapes, "have another shape"),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"The weights in {str(folder)!r} are not those of the {type(model).__name__} that its config.json "
            f"describes. Of the tensors {'; '.join(problems)}.",
            hint="Take config.json and weights of one model, and load it as its kind: an encoder is for "
            "fine_tuning.objective contrastive.",
        )


def other_shapes(folder: Path, model: PreTrainedModel) -> set[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Return the folder's tensors that have another shape in ``model``: names, shapes there, and shapes here."""
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {tensor.name: tuple(tensor.shape) for path in folder.glob("*.safetensors") for tensor in read_tensors(path)}
    return {(name, shape, here[name]) for name, shape in found.items() if shape != here.get(name, shape)}


def _is_of_a_head(name: str, model: PreTrainedModel) -> bool:
    """Return True for a tensor beside the base model, such as ``lm_head.weight``."""
    parts = {model.base_model_prefix, *(child for child, _ in model.named_children())}
    return name.partition(".")[0] not in parts


def _listed(names: Collection[str]) -> str:
    first = sorted(names)[:_NUM_NAMED]
    return ", ".join(first) + (f" and {len(names) - len(first)} more" if len(names) > len(first) else "")
