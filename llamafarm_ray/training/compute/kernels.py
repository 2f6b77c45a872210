"""Liger's fused kernels (https://arxiv.org/abs/2410.10989): norms, rotary positions and gated layers in one pass."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal

import torch

from llamafarm_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["use_fused_kernels"]


def use_fused_kernels(model: PreTrainedModel, wanted: Literal["auto"] | bool, device: torch.device) -> bool:
    """Put fused kernels into a transformers model that Liger supports. The loss stays ours.

    Args:
        model: not yet wrapped.
        wanted: ``"auto"`` uses them on GPUs where the package is installed.

    Returns:
        True if they are in use.

    Raises:
        UserError: they are asked for and can't be had.
    """
    if wanted is False:
        return False
    is_gpu, is_installed = device.type == "cuda", importlib.util.find_spec("liger_kernel") is not None
    if not (is_gpu and is_installed):
        if wanted is True:
            why = "liger-kernel is not installed" if is_gpu else "there is no GPU"
            raise UserError(
                f"fine_tuning.training.fused_kernels is true, but {why}.",
                hint="Install the extra gpu, or leave the key at auto.",
            )
        return False
    from transformers.integrations.liger import apply_liger_kernel  # Triton, which needs a GPU

    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    return True
