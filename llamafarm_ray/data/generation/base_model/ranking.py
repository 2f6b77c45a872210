"""Questions and the sentences that a model is to rank for them. It imports no torch, so that planning stays quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.data.generation.base_model.texts import sentences_in_context
from llamafarm_ray.data.search.excerpts import SentenceIndex

__all__ = ["LikelihoodJob"]


@dataclass(frozen=True, slots=True)
class LikelihoodJob:
    """Questions, each with the sentences that it may be about.

    Args:
        cache: folder or URI for what it learns from the lessons; None: nowhere.
        asked: for each question its words, and places in ``sentences``.
        sentences: for each sentence the heading line above it, the sentence before it or nothing, and the sentence.
    """

    folder: Path
    cache: str | None
    asked: Sequence[tuple[str, Sequence[int]]]
    sentences: Sequence[tuple[str, str, str]]

    @classmethod
    def of(
        cls, questions: Sequence[str], passages: Sequence[Sequence[str]], folder: Path, cache: str | None
    ) -> LikelihoodJob:
        """Return the job for all sentences of the passages that were retrieved for each question.

        The sentences of a question are in the order of a `SentenceIndex` of its passages.
        """
        places: dict[tuple[str, str, str], int] = {}
        asked = []
        for question, texts in zip(questions, passages, strict=True):
            index = SentenceIndex(texts)
            sentences = [each for at in range(len(texts)) for each in sentences_in_context(*index.of_passage(at))]
            asked.append((question, [places.setdefault(each, len(places)) for each in sentences]))
        return cls(folder, cache, asked, list(places))
