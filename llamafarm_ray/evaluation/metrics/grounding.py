"""Grounding of answers in the passages they were given, by their words: no judge, no language assumed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llamafarm_ray.evaluation.metrics.answers import contains
from llamafarm_ray.text.scripts import UNSPACED_BLOCKS
from llamafarm_ray.text.support import support
from llamafarm_ray.text.tokens import word_tokens

__all__ = ["agreement", "context_use", "faithfulness"]

_CONTENT = re.compile(rf"\w{{4}}|\d|[{UNSPACED_BLOCKS}]")


def faithfulness(answer: str, context: Sequence[str], question: str = "") -> float | None:
    """Return how far the passages support an answer, 0 to 1; None if it says nothing.

    The share of the answer's content words that occur in the passages or the question; a number or name that occurs
    in neither makes it 0. Words of short answers without content words are compared one by one. Source:
    the definition of RAGAS (https://aclanthology.org/2024.eacl-demo.16), with words in place of a judge: it sees
    what was invented, and not what was turned around.
    """
    words = word_tokens(answer)
    if not words:
        return None
    known = "\n\n".join(context)
    share = support(answer, known, question)
    if share > 0:
        return share
    # `support` knows words from four letters on, and pairs of unspaced ones: "oak" and "yes" are neither.
    if _CONTENT.search(" ".join(words)):
        return 0.0
    there = {*word_tokens(known), *word_tokens(question)}
    return sum(word in there for word in words) / len(words)


def agreement(answer: str, references: Sequence[str], question: str = "") -> float:
    """Return 1.0 if an answer holds all content of a reference: its numbers, names and content words; else 0.0.

    For references that are whole sentences, which no answer repeats word by word; the question's words need not be
    said again. Source: "completeness" of RAGBench (https://arxiv.org/abs/2407.11005), by words.
    """
    return float(any(faithfulness(reference, [answer], question) == 1.0 for reference in references))


def context_use(answer: str, context: Sequence[str], accepted: Sequence[str]) -> float | None:
    """Return 1.0 if an answer that the passages hold was given, 0.0 if not; None if the passages hold none.

    Its mean separates the reader from the retriever: it is the accuracy where retrieval had success. Source: the
    "utilization" of RAGBench (https://arxiv.org/abs/2407.11005), by accepted answers.
    """
    held = [one for one in accepted if any(contains(passage, [one]) for passage in context)]
    return contains(answer, accepted) if held else None
