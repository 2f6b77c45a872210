"""Open what lies in a base model's folder: its architecture and its weights. Never the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.foreign import UNREADABLE, first_line

__all__ = ["Architecture", "inspect_architecture", "linear_module_names", "load_model"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What can be known of a model before its weights are read.

    Args:
        num_parameters: parameters, tied ones counted once.
        linear_modules: names of the linear layers' last parts without the output head, sorted: ``("down_proj", ...)``.
        module_names: every module's dotted name.
        max_positions: the longest sequence in tokens it was made for, where its config says.
    """

    num_parameters: int
    linear_modules: tuple[str, ...]
    module_names: tuple[str, ...]
    max_positions: int | None


def inspect_architecture(folder: Path) -> Architecture:
    """Build the model without weights (torch's meta device) and look at it.

    Raises:
        InputError: config.json names no causal language model that transformers knows.
    """
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except UNREADABLE as error:
        raise InputError(
            f"The base model {str(folder)!r} is no causal language model that can be trained: {first_line(error)}",
            hint="Models that bring their own code are refused.",
        ) from error
    return Architecture(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        linear_modules=tuple(linear_module_names(model)),
        module_names=tuple(name for name, _ in model.named_modules() if name),
        max_positions=getattr(config, "max_position_embeddings", None),
    )


def load_model(folder: Path, *, dtype: torch.dtype, **options: Any) -> Any:
    """The folder's causal language model with its weights, from safetensors only.

    Args:
        folder: the base model.
        dtype: what floating point weights are held in.
        options: passed on to ``AutoModelForCausalLM.from_pretrained`` (``quantization_config``, ``device_map``).

    Raises:
        InputError: the weights can't be read.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, use_safetensors=True, **options
        )
    except torch.OutOfMemoryError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"The weights in {str(folder)!r} can't be loaded: {first_line(error)}", hint="Download the model again."
        ) from error
    model.config.use_cache = False
    return model


def linear_module_names(model: Any) -> list[str]:
    """The last parts of the names of all linear layers but the output head, sorted: ``["down_proj", ...]``."""
    head = model.get_output_embeddings()
    # GPT-2's Conv1D is a linear layer with its weight transposed; peft adapts both.
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if module is not head and (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D")
        }
    )
