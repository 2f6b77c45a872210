"""The text that a question fits best, among all of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s

from llamafarm_ray.data.generation.base_model.languages import language_rules
from llamafarm_ray.data.text import normal_words

__all__ = ["best_texts"]


def best_texts(questions: Sequence[str], texts: Sequence[str], language: str = "en") -> list[int]:
    """Return for each question the index of the text that BM25 ranks first.

    Args:
        questions: in one language.
        texts: in the same.
        language: ISO 639-1 code.
    """
    words = _words(texts, language)
    if not questions or not any(words):
        return [0] * len(questions)
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    found, _ = index.retrieve(_words(questions, language), k=1, show_progress=False)
    return [int(row[0]) for row in found]


def _words(texts: Sequence[str], language: str) -> list[list[str]]:
    if not language_rules(language).is_taught:
        stop_words = language_rules(language).stop_words
        return [[word for word in normal_words(text) if word not in stop_words] for text in texts]
    words: list[list[str]] = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return words
