"""Vectors of texts by wordllama, whose weights are in its wheel: offline, without torch, some 10,000 texts a second."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Vectors", "cosines", "embed", "whole_words"]

_WORD_START = "\u2581"  # in the vocabulary of SentencePiece

Vectors = npt.NDArray[np.float32]


def embed(texts: Sequence[str]) -> Vectors:
    """Return a unit vector for each text, shape (texts, 256); zeros for a text without any token."""
    if not texts:
        return np.zeros((0, 256), dtype=np.float32)
    vectors: Vectors = _model().embed([text or " " for text in texts])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Vectors = vectors / np.where(lengths > 0, lengths, 1)
    return units


def cosines(one: Vectors, other: Vectors) -> Vectors:
    """Return the cosine of each row of ``one`` with the same row of ``other``, -1.0 to 1.0."""
    found: Vectors = np.einsum("ij,ij->i", one, other)
    return found


def whole_words() -> frozenset[str]:
    """Return the words that are one token of wordllama's vocabulary, without those that begin within a word."""
    marked = (token for token in _model().tokenizer.get_vocab() if token.startswith(_WORD_START))
    return frozenset(token.removeprefix(_WORD_START) for token in marked)


class _Tokenizer(Protocol):
    """The tokenizer of a model of wordllama's."""

    def get_vocab(self) -> Mapping[str, int]:
        """Return the id of each token."""


class _Model(Protocol):
    """A model of wordllama's."""

    @property
    def tokenizer(self) -> _Tokenizer:
        """Its tokenizer."""

    def embed(self, texts: list[str]) -> Vectors:
        """Return a vector for each text."""


@functools.cache
def _model() -> _Model:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    library = importlib.import_module("wordllama")
    root.handlers[:] = handlers  # importing it sets up logging for the whole process
    root.setLevel(level)
    folder = Path(str(library.__file__)).parent
    model: _Model = library.WordLlama.load(cache_dir=folder, disable_download=True)
    return model
