"""Retrieval: the passages of a corpus that fit a question, by BM25."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np

from llamafarm_ray.text.tokens import word_tokens

__all__ = ["PassageIndex"]

_K1, _B = 0.9, 0.4


class PassageIndex:
    """An index of passages in any script.

    Source of the ranking: Robertson et al., 1994 (BM25), in Lucene's form, as bm25s computes it
    (https://arxiv.org/abs/2407.03618), with Anserini's parameters (Yang et al., 2017, "Anserini: Enabling the Use of
    Lucene for Information Retrieval Research"): passages are of like length, and a word rarely counts twice.

    Args:
        texts: the passages.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._num_texts = len(texts)
        self._index = bm25s.BM25(k1=_K1, b=_B)
        words = [word_tokens(text) or [""] for text in texts]
        self._is_empty = not texts
        if not self._is_empty:
            self._index.index(words, show_progress=False)

    def search(self, question: str, k: int) -> list[tuple[int, float]]:
        """Return the best ``k`` passages with their scores, the best first and equal ones in their order.

        A passage that shares no word with the question has the score 0.0.
        """
        words = [] if self._is_empty else [word for word in word_tokens(question) if word in self._index.vocab_dict]
        scores = self._index.get_scores(words) if words else np.zeros(self._num_texts)
        best = np.argsort(-scores, kind="stable")[:k]
        return [(int(at), float(scores[at])) for at in best]
