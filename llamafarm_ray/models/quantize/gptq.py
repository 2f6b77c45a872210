"""Rounding that is fitted to texts: GPTQ (Frantar et al., 2022, https://arxiv.org/abs/2210.17323), layer by layer.

Columns are rounded from the left to the right. The error of each is spread over those to its right, weighted by the
inverse of the layer's input products, so that outputs for such inputs change least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_range

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.quantize.scales import group_scales

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["fit_layers", "fitted"]

_BLOCK_COLUMNS = 128
_MOST_TRIES = 8
_DAMPING = 0.01
"""Share of the mean diagonal that is added to it: the paper's."""


@torch.no_grad()
def fit_layers(
    model: PreTrainedModel,
    layers: Mapping[str, Any],
    args: QuantizationArgs,
    samples: Sequence[torch.Tensor],
    *,
    scale_dtype: torch.dtype,
    on_progress: Callable[[float], None] = lambda _share: None,
) -> None:
    """Round the weights of linear layers, each fitted to the samples' outputs of the rounded layers before it.

    Args:
        model: in 32 bits; it is changed, and ``weight_scale`` of each layer is set.
        layers: linear layers by dotted name; those outside of the model's blocks stay as they are.
        samples: token ids of texts.
        scale_dtype: the precision that scales are saved in.
        on_progress: called with the share of blocks that are done.

    Raises:
        UnsupportedError: the model has no list of blocks.
    """
    prefix, blocks = _blocks(model)
    hidden, options = _block_inputs(model, blocks, samples)
    for number, block in enumerate(blocks):
        own = {name: one for name, one in layers.items() if name.startswith(f"{prefix}.{number}.")}
        products = _input_products(block, own, hidden, options[number])
        for name, module in own.items():
            if name in products:  # others saw no input, such as experts that no token was sent to
                weight, scales = fitted(module.weight, products[name], args, scale_dtype)
                module.weight.data, module.weight_scale.data = weight, scales.float()
        hidden = [_run(block, one, given) for one, given in zip(hidden, options[number], strict=True)]
        on_progress((number + 1) / len(blocks))


def fitted(
    weight: torch.Tensor, products: torch.Tensor, args: QuantizationArgs, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a matrix of representable values, and their scales.

    Args:
        weight: shape (rows, width).
        products: sum of outer products of the layer's inputs, shape (width, width).

    Returns:
        the values in 32 bits, and scales of shape (rows, groups).
    """
    rest, width = weight.float().clone(), weight.shape[1]
    per_scale = args.group_size or width
    inverse = _inverse_root(products.float())
    lowest, highest = calculate_range(args, rest.device)
    made, scales = torch.empty_like(rest), []
    for begin in range(0, width, _BLOCK_COLUMNS):
        end = min(begin + _BLOCK_COLUMNS, width)
        errors = torch.zeros_like(rest[:, begin:end])
        for column in range(begin, end):
            if column % per_scale == 0:
                group = rest[:, column : column + per_scale]
                scale = group_scales(group, args).to(scale_dtype)
                scales.append(scale)
            values, step = rest[:, column], scale.float()
            made[:, column] = (values / step).round().clamp(lowest, highest) * step
            error = (values - made[:, column]) / inverse[column, column]
            rest[:, column:end] -= error[:, None] * inverse[column, column:end]
            errors[:, column - begin] = error
        rest[:, end:] -= errors @ inverse[begin:end, end:]
    return made, torch.stack(scales, dim=1)


def _inverse_root(products: torch.Tensor) -> torch.Tensor:
    """Return the upper Cholesky factor of the damped products' inverse.

    Raises:
        InputError: there is none.
    """
    diagonal = products.diagonal().clone()
    silent = diagonal == 0  # inputs that are always zero
    damping = _DAMPING * float(diagonal.mean()) or 1.0
    for _ in range(_MOST_TRIES):
        damped = products + torch.diag(silent.float() + damping)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            found = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not found.info:
                upper: torch.Tensor = found.L
                return upper
        damping *= 10
    raise InputError(
        "A layer's inputs for the calibration texts are no numbers, or too large.",
        hint="Leave out --calibration, and look whether the model answers at all.",
    )


def _blocks(model: PreTrainedModel) -> tuple[str, Any]:
    wanted = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted:
            return name, module
    raise UnsupportedError(
        f"Models of type {model.config.model_type} have no list of {wanted} blocks, which calibration goes through.",
        hint="Leave out --calibration.",
    )


def _block_inputs(
    model: PreTrainedModel, blocks: Sequence[Any], samples: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], list[list[dict[str, Any]]]]:
    """Return the first block's input for each sample, and the other arguments of each block for each."""
    hidden: list[torch.Tensor] = []
    options: list[list[dict[str, Any]]] = [[] for _ in blocks]

    def seen(number: int) -> Callable[..., None]:
        def keep(_module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            named = dict(named)
            states = positional[0] if positional else named.pop("hidden_states")
            if number == 0:
                hidden.append(states)
            options[number].append(named)

        return keep

    with ExitStack() as stack:
        for number, block in enumerate(blocks):
            stack.enter_context(_Hook(block.register_forward_pre_hook(seen(number), with_kwargs=True)))
        for ids in samples:
            model(input_ids=ids[None], use_cache=False)
    return hidden, options


def _input_products(
    block: Any, own: Mapping[str, Any], hidden: Sequence[torch.Tensor], options: Sequence[dict[str, Any]]
) -> dict[str, torch.Tensor]:
    products: dict[str, torch.Tensor] = {}

    def summed(name: str) -> Callable[..., None]:
        def add(_module: Any, given: tuple[torch.Tensor, ...]) -> None:
            rows = given[0].reshape(-1, given[0].shape[-1]).float()
            products[name] = products.get(name, 0) + rows.T @ rows

        return add

    with ExitStack() as stack:
        for name, module in own.items():
            stack.enter_context(_Hook(module.register_forward_pre_hook(summed(name))))
        for one, given in zip(hidden, options, strict=True):
            _run(block, one, given)
    return products


def _run(block: Any, hidden: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
    output = block(hidden, **options)
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


class _Hook:
    """A hook that is taken off at the end of a block."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
