"""Rankings of a retriever against the relevant passages: hit rate, MRR and nDCG at a cut-off."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["hit_rate", "ndcg", "reciprocal_rank"]


def hit_rate(relevant: Sequence[bool], k: int | None = None) -> float:
    """Return 1.0 if anything relevant is among the first ``k``, else 0.0.

    Source: "top-k retrieval accuracy" of DPR (Karpukhin et al., 2020,
    https://aclanthology.org/2020.emnlp-main.550).

    Args:
        relevant: for each result, True if it is relevant; the best ranked first.
        k: results that count; None: all.
    """
    return float(any(relevant[:k]))


def reciprocal_rank(relevant: Sequence[bool], k: int | None = None) -> float:
    """Return one divided by the rank of the first relevant result, 0.0 if there is none.

    Its mean over questions is the MRR. Source: Voorhees, TREC-8, 1999
    (https://trec.nist.gov/pubs/trec8/papers/qa_report.pdf).
    """
    return next((1 / rank for rank, is_relevant in enumerate(relevant[:k], 1) if is_relevant), 0.0)


def ndcg(gains: Sequence[float], ideal: Sequence[float] | None = None, k: int | None = None) -> float:
    """Return the discounted gain of a ranking, as a share of the best possible ranking's; 0.0 if nothing is relevant.

    Source: Järvelin and Kekäläinen, 2002 (https://doi.org/10.1145/582415.582418), with gains as they are and the
    discount log2(rank + 1), as ``trec_eval`` has it.

    Args:
        gains: relevance of each result, the best ranked first; a flag counts as 1.
        ideal: relevance of everything that could be found; None: ``gains``.
        k: results that count; None: all.
    """
    best = _discounted(sorted(gains if ideal is None else ideal, reverse=True)[:k])
    return min(1.0, _discounted(gains[:k]) / best) if best > 0 else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(float(gain) / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))
