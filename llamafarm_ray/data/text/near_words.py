"""Words of like meaning, for the wording that people choose where a document has another one."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

import numpy as np

from llamafarm_ray.data.text.vectors import embed, whole_words

__all__ = ["SHARE_REPLACED", "NearWords"]

SHARE_REPLACED = 0.5
"""Part of the words that are replaced in a prompt."""

_WORD = re.compile(r"[a-z]{3,}")
_NUM_NEIGHBORS = 10
_LOWEST, _HIGHEST = 0.42, 0.995
"""Bounds of the cosine: below it words have little in common, above it they are the same."""


class NearWords:
    """Finds words of like meaning by the cosine of their vectors: ``price`` for ``cost``, ``dog`` for ``cat``.

    Some are only related. That is wanted: a prompt of them has no other source than the text that it was made of.

    Args:
        vocabulary: words to choose from, such as the whole words of a model's tokenizer. Others are left out, and all
            that are not of three or more lower-case letters from a to z.
    """

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self._words = sorted(whole_words() & {word for word in vocabulary if _WORD.fullmatch(word)})
        self._known = frozenset(self._words)
        self._vectors = embed(self._words)
        self._found: dict[str, list[tuple[str, float]]] = {}

    def pick(self, word: str, rng: random.Random) -> str:
        """Return a word near to ``word``, a nearer one more often; the word itself if there is none, or it is a name.

        Args:
            word: a word, of which a capital letter marks a name unless it is in the vocabulary in lower case.
            rng: decides which one.
        """
        low = word.lower()
        if word != low and low not in self._known:
            return word
        near = self._neighbors(low)
        return rng.choices([each for each, _ in near], [cosine**2 for _, cosine in near])[0] if near else word

    def replace_some(self, text: str, kept: Iterable[str], rng: random.Random) -> str:
        """Return a text in which about half of the lower-case words are near ones.

        Args:
            kept: words that stay, in lower case.
            rng: decides which words, and by which ones.
        """
        kept = frozenset(kept)

        def new(found: re.Match[str]) -> str:
            is_replaced = found[0] not in kept and rng.random() < SHARE_REPLACED
            return self.pick(found[0], rng) if is_replaced else found[0]

        return re.sub(rf"\b{_WORD.pattern}\b", new, text)

    def _neighbors(self, word: str) -> list[tuple[str, float]]:
        if word not in self._found:
            cosines = np.round(self._vectors @ embed([word])[0], 4)
            best = np.argsort(-cosines, kind="stable")[:_NUM_NEIGHBORS]
            near = ((self._words[at], float(cosines[at])) for at in best)
            self._found[word] = [(each, cosine) for each, cosine in near if _LOWEST <= cosine < _HIGHEST]
        return self._found[word]
