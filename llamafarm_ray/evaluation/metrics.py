"""Numbers from losses and texts. No model is needed here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

__all__ = ["bleu", "perplexity", "rouge_l"]

MAX_PERPLEXITY = 1e12
"""What stands for every worse perplexity: JSON has no infinity, and nobody can tell two such models apart."""


def perplexity(loss_sum: float, num_tokens: int) -> float:
    """The exponential of the mean loss per token, at most `MAX_PERPLEXITY`.

    Args:
        loss_sum: the tokens' cross-entropies in nats, summed; an infinite or undefined one is the worst there is.
        num_tokens: how many tokens; at least one.
    """
    mean = loss_sum / num_tokens
    if not math.isfinite(mean) or mean > math.log(MAX_PERPLEXITY):
        return MAX_PERPLEXITY
    return math.exp(mean)


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100, by sacrebleu (https://aclanthology.org/W18-6319)."""
    return float(sacrebleu.corpus_bleu(list(answers), [list(references)]).score)


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean ROUGE-L F1, 0 to 1: the longest common subsequence of words (https://aclanthology.org/W04-1013)."""
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    scores = [
        scorer.score(reference, answer)["rougeL"].fmeasure
        for answer, reference in zip(answers, references, strict=True)
    ]
    return float(sum(scores) / len(scores))
