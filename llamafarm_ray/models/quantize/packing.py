"""Weights packed by the libraries that read them: compressed-tensors and bitsandbytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.base import compress_module
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationStatus,
    apply_quantization_config,
)
from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
from transformers import BitsAndBytesConfig

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.models.loading import linear_layers, load_model
from llamafarm_ray.models.quantize.gptq import fit_layers
from llamafarm_ray.models.quantize.scales import weight_scales
from llamafarm_ray.models.quantize.schemes import Scheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_linear", "group_size", "pack_compressed_tensors", "pack_nf4"]

_GROUPS = (128, 64, 32)
"""Numbers of weights with one scale, the usual first."""


def pack_compressed_tensors(
    model: PreTrainedModel,
    scheme: Scheme,
    output: Path,
    *,
    dtype: torch.dtype,
    samples: Sequence[torch.Tensor] = (),
    on_progress: Callable[[float], None] = lambda _share: None,
) -> None:
    """Quantize a model's linear layers but its output head, and save it.

    Args:
        model: in 32 bits; it is changed.
        scheme: one of compressed-tensors.
        output: an existing folder.
        dtype: the precision that unquantized weights and scales are saved in.
        samples: token ids of texts that the rounding is fitted to; without any, each weight is rounded to the nearest.
        on_progress: called with the share of layers that are done.

    Raises:
        UnsupportedError: a layer's width is no multiple of a group, or a linear layer is of a kind without packed form.
    """
    layers = _packable(model)
    preset = preset_name_to_scheme(scheme.preset, ["Linear"])
    args = preset.weights
    if args.group_size:
        args.group_size = group_size(layers)
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), None)
    ignored = [head] if head else []
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": preset}, ignore=ignored))
    for module in layers.values():
        module.weight_scale.data = weight_scales(module.weight, args).to(dtype).float()  # as they are read back
        module.quantization_enabled = False  # fitting runs the model with its weights as they are
    if samples:
        fit_layers(model, layers, args, samples, scale_dtype=dtype, on_progress=on_progress)
    compressor = ModelCompressor.from_pretrained_model(model)
    for module in layers.values():
        compress_module(module)
    if compressor.quantization_config is not None:
        compressor.quantization_config.quantization_status = QuantizationStatus.COMPRESSED
    _narrow(model, dtype)
    model.config.use_cache = True
    model.save_pretrained(str(output))
    compressor.update_config(str(output))


def pack_nf4(source: Path, output: Path, *, dtype: torch.dtype) -> None:
    """Save a model with its linear layers but its output head in bitsandbytes' NF4.

    Args:
        output: an existing folder.
        dtype: the precision of unquantized weights, and of computation.
    """
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    model = load_model(source, dtype=dtype, quantization_config=config)
    model.config.use_cache = True
    model.save_pretrained(str(output))


def group_size(layers: dict[str, Any]) -> int:
    """Return the largest group that divides the widths of all layers.

    Raises:
        UnsupportedError: none does.
    """
    for size in _GROUPS:
        if all(module.in_features % size == 0 for module in layers.values()):
            return size
    name, module = next(one for one in layers.items() if one[1].in_features % _GROUPS[-1])
    raise UnsupportedError(
        f"Layer {name} has rows of {module.in_features} weights, no multiple of {_GROUPS[-1]}, the smallest group.",
        hint="Use scheme w8a8 or fp8, which have a scale a row, or a GGUF scheme.",
    )


def _narrow(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Hold parameters of 32 bits in another precision; packed ones are of other types."""
    for parameter in model.parameters():
        if parameter.dtype is torch.float32:
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def check_linear(model: PreTrainedModel) -> None:
    """Check that most weights beside embeddings are in linear layers, which are the ones that are packed.

    Raises:
        UnsupportedError: they are elsewhere, as a mixture's experts are.
    """
    modules = dict(model.named_modules())
    outer = {id(one.weight): one.weight for one in (model.get_input_embeddings(), model.get_output_embeddings()) if one}
    inner = sum(one.numel() for one in model.parameters() if id(one) not in outer)
    linear = sum(modules[name].weight.numel() for name in linear_layers(model))
    if linear < inner / 2:
        share = f"{linear / inner:.0%} are in linear layers"
        raise UnsupportedError(
            f"Of the weights of this {model.config.model_type} only {share}, and others are not packed.",
            hint="Mixtures of experts are not quantized yet.",
        )


def _packable(model: PreTrainedModel) -> dict[str, Any]:
    modules = dict(model.named_modules())
    layers = {name: modules[name] for name in linear_layers(model)}
    for name, module in layers.items():
        if type(module) is not torch.nn.Linear:
            raise UnsupportedError(
                f"Layer {name} is a {type(module).__name__}, which compressed-tensors does not pack.",
                hint="Use a GGUF scheme.",
            )
    return layers
