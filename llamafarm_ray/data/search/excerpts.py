"""Excerpts of passages: the few sentences that fit a question best.

A small model answers better from two sentences than from the two passages they stand in: it confuses fewer facts, and
the prompt is shorter by two thirds. So prompts with passages show excerpts, in training and in evaluation alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from llamafarm_ray.data.text import sentences_of
from llamafarm_ray.data.text.vectors import embed
from llamafarm_ray.text.tokens import word_tokens

__all__ = ["NUM_LIKELIEST", "NUM_SENTENCES", "SentenceIndex", "excerpts"]

NUM_SENTENCES = 2
"""Sentences of the excerpts for one question, where cosines rank them. Of two corpora with 40 questions each, the best
sentence of two passages holds the answer to 43 questions, the two best to 53, the four best to 60, and the whole
passages to 65. A 135M model that was trained on excerpts answered 44 from two sentences and 38 from four."""
NUM_LIKELIEST = 1
"""Sentences of the excerpts for one question, where a model ranks them that has learned to ask. Of three passages, the
best sentence holds the answer to 56 of the same questions, the two best to 61, the three best to 63. The trained model
answered 55 from one sentence, 42 from two and 38 from three: it quotes one of them."""

_PASSAGE_WEIGHT = 0.5
_LIKELIHOOD_WEIGHT = 0.04  # per nat
_DECIMALS = 6  # so that the order of equal scores does not depend on the machine's arithmetic
_SENTENCE_END = re.compile(r"[.!?:;\u3002\uff01\uff1f\u0964\u061f]\s*$")  # also Chinese, Hindi and Arabic marks


class SentenceIndex:
    """An index of the sentences of passages.

    A sentence is ranked by two cosines with the question: its own, read below its passage's heading line, and, with
    half the weight, its passage's.

    Args:
        passages: the passages. The first of several lines is the title and headings, unless it ends as sentences do.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self._headings: list[str] = []
        self.sentences: list[str] = []
        owners: list[int] = []
        for at, passage in enumerate(passages):
            heading, text = _parts(passage)
            found = sentences_of(text) or [text]
            self._headings.append(heading)
            self.sentences += found
            owners += [at] * len(found)
        self._owners = np.array(owners, dtype=np.intp)
        below = [f"{self._headings[owner]}\n{each}".strip() for owner, each in zip(owners, self.sentences, strict=True)]
        self._of_sentences = embed(below)
        self._of_passages = embed(passages)

    def of_passage(self, passage: int) -> tuple[str, list[str]]:
        """Return the heading line of a passage, and its sentences in order."""
        return self._headings[passage], [self.sentences[at] for at in np.flatnonzero(self._owners == passage)]

    def nearest(
        self, question: str, num_sentences: int = NUM_SENTENCES, likelihoods: Sequence[float] | None = None
    ) -> list[int]:
        """Return the places of the sentences that fit a question best, the best first.

        Args:
            likelihoods: for each sentence the log-probability of the question after it, by a model that has learned
                to ask; None: cosines alone rank.
        """
        vector = embed([question])[0]
        scores = self._of_sentences @ vector + _PASSAGE_WEIGHT * (self._of_passages @ vector)[self._owners]
        if likelihoods is not None:
            scores = scores + _LIKELIHOOD_WEIGHT * np.asarray(likelihoods)
        scores = np.round(scores, _DECIMALS)
        num_sentences = min(num_sentences, len(scores))
        best = np.flatnonzero(scores >= np.partition(scores, -num_sentences)[-num_sentences])
        return [int(at) for at in best[np.argsort(-scores[best], kind="stable")][:num_sentences]]

    def supporting(self, answer: str, passage: int) -> int:
        """Return the place of the sentence of a passage that has most of an answer's words, rare ones above all."""
        places = np.flatnonzero(self._owners == passage)
        words = [set(word_tokens(self.sentences[at])) for at in places]
        occurrences = Counter(word for each in words for word in each)
        asked = set(word_tokens(answer))
        shared = [sum(1 / occurrences[word] for word in each & asked) for each in words]
        return int(places[int(np.argmax(shared))])

    def shown(self, places: Sequence[int]) -> list[str]:
        """Return sentences as excerpts, the last of ``places`` first, so that the best stands next to the question.

        Sentences of one passage that follow each other share its heading line.
        """
        excerpts: list[list[str]] = []
        owner = -1
        for at in reversed(places):
            if self._owners[at] != owner:
                owner = int(self._owners[at])
                excerpts.append([self._headings[owner]] if self._headings[owner] else [])
            excerpts[-1].append(self.sentences[at])
        return ["\n".join(lines) for lines in excerpts]


def excerpts(
    question: str,
    passages: Sequence[str],
    num_sentences: int = NUM_SENTENCES,
    likelihoods: Sequence[float] | None = None,
) -> list[str]:
    """Return the sentences of passages that fit a question best, each below its passage's heading line.

    Args:
        passages: texts; the first of several lines is the title and headings.
        likelihoods: see `SentenceIndex.nearest`.
    """
    index = SentenceIndex(passages)
    return index.shown(index.nearest(question, num_sentences, likelihoods)) if passages else []


def _parts(passage: str) -> tuple[str, str]:
    """Return the heading line of a passage and its text."""
    heading, _, text = passage.partition("\n")
    if not text.strip() or _SENTENCE_END.search(heading):
        return "", passage
    return heading.strip(), text
