"""LoRA's linear layers in fewer passes over memory, for CPUs.

peft computes ``W x + s B (A x)`` with a pass for each sign of it: the scale, the sum, a cast of each. On a CPU those
passes take as long as the products. Here the scale is part of B, which is small, and sums are part of the products,
forward and backward. A 135M model trains about a fifth faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["use_fused_lora"]


def use_fused_lora(model: PreTrainedModel) -> int:
    """Compute the low-rank layers of a peft model by one function each, where that gives the same result.

    Layers stay as they are that have dropout, DoRA, several adapters, a bias of the update, or a base layer that is
    not a plain linear one.

    Args:
        model: on a CPU.

    Returns:
        The number of changed layers.
    """
    if not hasattr(model, "peft_config"):
        return 0
    from peft.tuners.lora.layer import Linear  # peft imports every quantization library there is

    layers = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    for layer in layers:
        layer.forward = _Forward(layer)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    names = list(layer.lora_A)
    return (
        len(names) == 1
        and type(layer.base_layer) is torch.nn.Linear
        and not layer.fan_in_fan_out
        and not layer.lora_variant
        and isinstance(layer.lora_dropout[names[0]], torch.nn.Identity)
        and layer.lora_B[names[0]].bias is None
    )


class _Forward:
    """A layer's forward; peft's own for merged or disabled adapters, and for mixed batches."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._of_peft = layer.forward
        (self._name,) = layer.lora_A

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        layer, name = self._layer, self._name
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        weight, bias = layer.base_layer.weight, layer.base_layer.bias
        is_own = layer.active_adapters == [name] and not (layer.disable_adapters or layer.merged or args or kwargs)
        if not is_own or weight.dtype != dtype or x.device.type != "cpu":
            result: torch.Tensor = self._of_peft(x, *args, **kwargs)
            return result
        with torch.autocast("cpu", enabled=False):
            matrices = layer.lora_A[name].weight, layer.lora_B[name].weight
            return _LoraLinear.apply(x.to(dtype), weight, bias, *matrices, layer.scaling[name])  # type: ignore[no-any-return, no-untyped-call]


class _LoraLinear(torch.autograd.Function):
    """``W x + b + s B (A x)``. W and b are frozen."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes them by place
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a, scaled_b = lora_a.to(x.dtype), (lora_b * scale).to(x.dtype)
        low = rows @ a.t()
        result = torch.nn.functional.linear(rows, weight, bias).addmm_(low, scaled_b.t())
        ctx.save_for_backward(rows, weight, a, scaled_b, low)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, lora_a.dtype
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, a, scaled_b, low = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        of_low = gradient @ scaled_b
        of_a = (of_low.t() @ rows).to(ctx.dtype)
        of_b = (gradient.t() @ low).to(ctx.dtype).mul_(ctx.scale)
        of_x = (gradient @ weight).addmm_(of_low, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_a, of_b, None
