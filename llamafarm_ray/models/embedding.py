"""From a model's token vectors to one vector a text."""

from __future__ import annotations

import torch
from torch.nn import functional

from llamafarm_ray.config.sections.objectives import Pooling

__all__ = ["pooled"]


def pooled(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One vector of length 1 for each text.

    Args:
        hidden: the last layer's vectors, of shape (S, longest, width).
        attention_mask: of shape (S, longest), 1 for tokens and 0 for padding on the right.
        pooling: the mean over the tokens, the last one's vector, or the first one's.

    Returns:
        A tensor of shape (S, width) in fp32.
    """
    hidden = hidden.float()
    if pooling == "cls":
        vectors = hidden[:, 0]
    elif pooling == "last":
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        vectors = hidden[rows, attention_mask.sum(dim=1) - 1]
    else:
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        vectors = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
    return functional.normalize(vectors, dim=-1)
