"""Scales of groups of weights: the range of a group, or a part of it where rounding errors are smaller then."""

from __future__ import annotations

import copy

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams, calculate_range

__all__ = ["group_scales", "weight_scales"]

_MOST_SEARCHED_BITS = 4
"""With more bits, no part of a range gives smaller errors than the whole."""
_SHARES = tuple(1 - step / 40 for step in range(1, 15))
"""Shares of the range that are tried beside the whole."""


def weight_scales(weight: torch.Tensor, args: QuantizationArgs) -> torch.Tensor:
    """Return the scales of a matrix, by its rows or by groups of each row: shape (rows, groups).

    Args:
        weight: shape (rows, width).
    """
    width = args.group_size or weight.shape[1]
    return group_scales(weight.detach().float().reshape(weight.shape[0], -1, width), args)


def group_scales(groups: torch.Tensor, args: QuantizationArgs) -> torch.Tensor:
    """Return the scale of each group: with four bits, the one of least squared error among shares of its range.

    Args:
        groups: in 32 bits; the last dimension is that of the weights of a group.
    """
    # calculate_qparams changes its arguments
    whole: torch.Tensor = calculate_qparams(groups.amin(-1), groups.amax(-1), copy.deepcopy(args))[0]
    if args.type != "int" or args.num_bits > _MOST_SEARCHED_BITS:
        return whole
    lowest, highest = (float(end) for end in calculate_range(args, groups.device))
    best = whole.float()
    least = _squared_errors(groups, best, lowest, highest)
    for share in _SHARES:
        scales = whole.float() * share
        errors = _squared_errors(groups, scales, lowest, highest)
        best = torch.where(errors < least, scales, best)
        least = torch.minimum(errors, least)
    return best.to(whole.dtype)


def _squared_errors(groups: torch.Tensor, scales: torch.Tensor, lowest: float, highest: float) -> torch.Tensor:
    steps = scales[..., None]
    return ((groups / steps).round().clamp(lowest, highest) * steps - groups).square().sum(-1)
