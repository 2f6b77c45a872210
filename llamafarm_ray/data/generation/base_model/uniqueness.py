"""The text that a question fits best, among all of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s

__all__ = ["best_texts"]


def best_texts(questions: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Return for each question the index of the text that BM25 ranks first.

    Args:
        questions: in English.
        texts: likewise.
    """
    words = _words(texts)
    if not questions or not any(words):
        return [0] * len(questions)
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    found, _ = index.retrieve(_words(questions), k=1, show_progress=False)
    return [int(row[0]) for row in found]


def _words(texts: Sequence[str]) -> list[list[str]]:
    words: list[list[str]] = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return words
