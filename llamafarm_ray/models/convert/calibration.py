"""Texts that rounding is fitted to, and how much each column of a model's weights counts for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.loading import linear_layers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["MAX_SAMPLES", "calibration_samples", "column_importance"]

MAX_SAMPLES = 64
"""The number of texts that rounding is fitted to at most."""
_SAMPLE_TOKENS = 512
_FLOOR = 1e-4
"""Share of the mean that the least important column has."""


def calibration_samples(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, texts: Sequence[str]
) -> list[torch.Tensor]:
    """Return token ids of the first texts with at least two tokens, cut to a length that the model reads."""
    longest = min(_SAMPLE_TOKENS, getattr(config, "max_position_embeddings", None) or _SAMPLE_TOKENS)
    found = []
    for text in texts:
        ids = tokenizer(text, verbose=False)["input_ids"][:longest]
        if len(ids) > 1:
            found.append(torch.tensor(ids))
        if len(found) == MAX_SAMPLES:
            break
    return found


@torch.no_grad()
def column_importance(model: PreTrainedModel, samples: Sequence[torch.Tensor]) -> dict[str, NDArray[np.float32]]:
    """Return the mean square of each input of the linear layers: llama.cpp's importance matrix.

    Args:
        model: in 32 bits.
        samples: token ids of texts.

    Returns:
        an array of a layer's width for each weight, by its name; layers that no token was sent to are left out.

    Raises:
        InputError: inputs of a layer are no numbers.
    """
    squares: dict[str, torch.Tensor] = {}
    hooks = []

    def add(name: str, inputs: torch.Tensor) -> None:
        found = inputs.reshape(-1, inputs.shape[-1]).float().square().sum(0).double()
        squares[name] = squares[name] + found if name in squares else found

    for name in linear_layers(model):

        def hook(_module: object, given: tuple[torch.Tensor, ...], name: str = name) -> None:
            add(name, given[0])

        hooks.append(model.get_submodule(name).register_forward_pre_hook(hook))
    try:
        for sample in samples:
            model(input_ids=sample[None])
    finally:
        for one in hooks:
            one.remove()
    made = {}
    for name, sums in squares.items():
        mean = float(sums.mean())
        if not np.isfinite(mean):
            raise InputError(
                f"The inputs of {name} are no numbers for the texts of --calibration.",
                hint="Check the model's weights, or leave out --calibration.",
            )
        if mean > 0:
            made[f"{name}.weight"] = (sums / mean).clamp(min=_FLOOR).float().numpy()
    return made
