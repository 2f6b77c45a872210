"""Perplexity, from the losses of a model's tokens."""

from __future__ import annotations

import math

__all__ = ["MAX_PERPLEXITY", "byte_perplexity", "perplexity"]

MAX_PERPLEXITY = 1e12
"""Upper bound of a perplexity: JSON has no infinity, and nobody can tell two such models apart."""


def perplexity(loss_sum: float, num_tokens: int) -> float:
    """Return the exponential of the mean loss per token, at most `MAX_PERPLEXITY`.

    Source: Jelinek et al., 1977 (https://doi.org/10.1121/1.2016299). Comparable between models with the same
    tokenizer only; see `byte_perplexity`.

    Args:
        loss_sum: cross-entropies of the tokens in nats, summed; an infinite or undefined one counts as the worst.
        num_tokens: number of tokens; at least one.
    """
    mean = loss_sum / num_tokens
    if not math.isfinite(mean) or mean > math.log(MAX_PERPLEXITY):
        return MAX_PERPLEXITY
    return math.exp(mean)


def byte_perplexity(loss_sum: float, num_bytes: int) -> float:
    """Return the exponential of the mean loss per byte of UTF-8: comparable between tokenizers.

    Source: ``byte_perplexity`` of lm-evaluation-harness (https://arxiv.org/abs/2405.14782, appendix A.3).

    Args:
        loss_sum: cross-entropies of the tokens in nats, summed.
        num_bytes: bytes of the text that these tokens spell; at least one.
    """
    return perplexity(loss_sum, num_bytes)
