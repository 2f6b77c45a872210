"""The rank that an adapter makes use of, by the singular values of its updates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llamafarm_ray.models.adapters.config import WEIGHTS
from llamafarm_ray.models.adapters.magnitudes import pairs, read_values
from llamafarm_ray.storage.formats.safetensors import read_tensors

__all__ = ["UsedRank", "used_rank"]

_KEPT = 0.99


@dataclass(frozen=True, slots=True)
class UsedRank:
    """Ranks of an adapter.

    Args:
        rank: the highest of its updates.
        enough: the lowest rank that keeps 99 % of each update's squared Frobenius norm.
        module: the update that needs it.
    """

    rank: int
    enough: int
    module: str


def used_rank(folder: Path) -> UsedRank | None:
    """Return the rank that an adapter makes use of; None if it has no LoRA matrices.

    The singular values of ``B A`` are those of the product of the triangular factors of ``B`` and of ``A``'s
    transpose, which is as small as the rank; the best approximation of a lower rank keeps the largest of them (Eckart
    and Young, Psychometrika 1, 1936).

    Raises:
        InputError: the weights are damaged.
        OSError: they can't be read.
    """
    path = folder / WEIGHTS
    tensors = {tensor.name: tensor for tensor in read_tensors(path)}
    found: UsedRank | None = None
    with path.open("rb") as file:
        for first, second in pairs(tensors):
            down, up = (read_values(file, tensors[name]) for name in (first, second))
            if ".lora_A." not in first or down.ndim != 2 or up.ndim != 2:  # matrices
                continue
            rank = down.shape[0]
            values = np.linalg.svd(np.linalg.qr(up).R @ np.linalg.qr(down.T).R.T, compute_uv=False)
            kept = np.cumsum(values**2)
            enough = 1 + int(np.searchsorted(kept, _KEPT * kept[-1])) if kept[-1] > 0 else 1
            if found is None or enough > found.enough:
                found = UsedRank(max(rank, found.rank if found else 0), enough, first.partition(".lora_")[0])
            elif rank > found.rank:
                found = UsedRank(rank, found.enough, found.module)
    return found
