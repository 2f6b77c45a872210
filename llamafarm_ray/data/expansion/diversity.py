"""Similarity of new questions to existing ones: repetitions, and vectors of words that are offline."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from llamafarm_ray.data.text import normal_form
from llamafarm_ray.data.text.vectors import Vectors, embed

__all__ = ["REPEATED", "TOO_SIMILAR", "Diversity"]

REPEATED = "asks what another example asks"
TOO_SIMILAR = "more similar to another question than diversity_threshold"
_BATCH = 1024


class Diversity:
    """Questions so far, held-out ones too: 1 KB each with a threshold, else 100 bytes.

    Args:
        threshold: largest cosine of two questions; None: only repetitions count.
    """

    def __init__(self, questions: Iterable[str], threshold: float | None = None) -> None:
        self._threshold = threshold
        self._known: set[str] = set()
        self._vectors = np.zeros((_BATCH, 256), dtype=np.float32)
        self._size = 0
        iterator = iter(questions)
        while batch := list(itertools.islice(iterator, _BATCH)):
            self._known.update(map(normal_form, batch))
            if threshold is not None:
                self._remember(embed(batch))

    @property
    def forms(self) -> frozenset[str]:
        """The questions so far, in their normal form."""
        return frozenset(self._known)

    def refused(self, questions: Sequence[str]) -> list[str]:
        """Return for each new question the reason to drop it, "" for one that is taken and known from then on."""
        reasons = []
        vectors = embed(questions) if self._threshold is not None else None
        for at, question in enumerate(questions):
            form = normal_form(question)
            reason = REPEATED if form in self._known else ""
            if not reason and vectors is not None and self._is_near(vectors[at]):
                reason = TOO_SIMILAR
            if not reason:
                self._known.add(form)
                if vectors is not None:
                    self._remember(vectors[at : at + 1])
            reasons.append(reason)
        return reasons

    def _is_near(self, vector: Vectors) -> bool:
        assert self._threshold is not None  # asked with a threshold only
        known = self._vectors[: self._size]
        return bool(self._size and float((known @ vector).max()) > self._threshold)

    def _remember(self, vectors: Vectors) -> None:
        needed = self._size + len(vectors)
        while needed > len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
        self._vectors[self._size : needed] = vectors
        self._size = needed
