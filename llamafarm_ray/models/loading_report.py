"""Check that a model's weights are those of its folder: none missing, none left over, none of another shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.safetensors import read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_loaded_weights", "other_shapes"]

_NUM_NAMED = 3
_STALE_BUFFERS = (".masked_bias", ".attn.bias", ".attention.bias", ".inv_freq", ".position_ids")
"""Endings of masks and positions that older releases of transformers saved, and newer ones compute."""


def check_loaded_weights(
    model: PreTrainedModel, report: Mapping[str, Any], folder: Path, *, without_head: bool
) -> None:
    """Check what transformers reports of loading a model. It fills what is missing with random numbers.

    Args:
        model: the loaded model.
        report: ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys``, as ``output_loading_info`` gives them.
        folder: the model's, for messages.
        without_head: True if the model has no output head: the folder's may be left over then, and an encoder's
            pooling head, which no vector is taken from, may be missing.

    Raises:
        InputError: the weights are not those that config.json describes; the message has the first names.
    """
    missing = [name for name in report["missing_keys"] if not (without_head and "pooler" in name.split("."))]
    unexpected = [
        name
        for name in report["unexpected_keys"]
        if not name.endswith(_STALE_BUFFERS) and not (without_head and _is_of_a_head(name, model))
    ]
    mismatched = [
        f"{name} ({list(found)} instead of {list(wanted)})" for name, found, wanted in report["mismatched_keys"]
    ]
    problems = [
        f"{len(names)} {said}: {_listed(names)}"
        for names, said in (
            (missing, "are missing"),
            (unexpected, "belong to no part of the model"),
            (mismatched, "have another shape"),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"The weights in {str(folder)!r} are not those of the {type(model).__name__} that its config.json "
            f"describes. Of the tensors {'; '.join(problems)}.",
            hint="Take config.json and weights of one model, and load it as what it is: an encoder is for "
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


def _listed(names: Sequence[str]) -> str:
    first = sorted(names)[:_NUM_NAMED]
    return ", ".join(first) + (f" and {len(names) - len(first)} more" if len(names) > len(first) else "")
