"""Perplexity of users' questions under the base model: the reference's beside later ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["QuestionPerplexity", "compare_losses"]

_DRAWS: Final = 9_999
_FEW: Final = 2


@dataclass(frozen=True, slots=True)
class QuestionPerplexity:
    """The base model's perplexity of sampled questions, per byte.

    Args:
        reference: of the questions in the reference's time; None without any.
        superiority: the chance that a later question surprises more than one of the reference, 0 to 1; 0.5 if they
            are alike. The effect's size, which does not grow with the number of questions.
        p_value: chance of an effect as large if there is none; None with fewer than two questions of either kind.
    """

    reference: float | None
    later: float | None
    superiority: float | None
    p_value: float | None
    num_reference: int
    num_later: int

    def to_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return asdict(self)


def compare_losses(reference: Sequence[float], later: Sequence[float], *, seed: int = 0) -> QuestionPerplexity:
    """Compare losses in nats per byte by their ranks.

    The p-value is that of a permutation test of the rank sum (Mann and Whitney, 1947, https://doi.org/10.1214/aoms/1177730491).
    """
    superiority = p_value = None
    if reference and later:
        ranks = _ranks(np.array([*reference, *later]))
        superiority = _superiority(ranks[len(reference) :].sum(), len(reference), len(later))
        if min(len(reference), len(later)) >= _FEW:
            rng = np.random.default_rng(seed)
            drawn = rng.permuted(np.tile(ranks, (_DRAWS, 1)), axis=1)[:, : len(later)].sum(axis=1)
            effects = np.abs((drawn - len(later) * (len(later) + 1) / 2) / (len(reference) * len(later)) - 0.5)
            p_value = (int((effects >= abs(superiority - 0.5) - 1e-12).sum()) + 1) / (_DRAWS + 1)
    return QuestionPerplexity(
        _perplexity(reference), _perplexity(later), superiority, p_value, len(reference), len(later)
    )


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value from 1; equal values share the mean of theirs."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[at], dtype=np.float64)


def _superiority(rank_sum: float, num_reference: int, num_later: int) -> float:
    return float((rank_sum - num_later * (num_later + 1) / 2) / (num_reference * num_later))


def _perplexity(losses: Sequence[float]) -> float | None:
    return math.exp(math.fsum(losses) / len(losses)) if losses else None
