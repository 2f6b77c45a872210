"""Split documents into passages: whole sentences of one section, about as many words as asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llamafarm_ray.data.rows import ParsedDocument, Passage, Section
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.data.text import num_words, sentences_of

__all__ = ["SplitPassages"]

_MAX_STRETCH = 2
"""A passage has at most this many times the words asked for: text without any full stop is cut there."""


class SplitPassages(Step[ParsedDocument, Passage]):
    """Fills passages sentence by sentence.

    Args:
        passage_words: a passage is closed before the sentence that would take it over this many words.
    """

    name = "passages"

    def __init__(self, passage_words: int) -> None:
        self.passage_words = passage_words

    def apply(self, rows: Iterable[ParsedDocument]) -> Iterator[Passage | Dropped]:
        """See :meth:`Step.apply`; passages never cross a heading."""
        for document in rows:
            index = 0
            for section in document.sections:
                for text in self._split(section):
                    yield Passage(document.path, document.digest, document.title, section.headings, text, index)
                    index += 1

    def _split(self, section: Section) -> Iterator[str]:
        text, words = "", 0
        for block in section.blocks:
            separator = "\n"
            for sentence in self._pieces(block):
                count = num_words(sentence)
                if text and words + count > self.passage_words:
                    yield text
                    text, words = "", 0
                text = f"{text}{separator}{sentence}" if text else sentence
                words += count
                separator = " "
        if text:
            yield text

    def _pieces(self, block: str) -> Iterator[str]:
        """The sentences of ``block``; one that alone is far too long is cut between words."""
        limit = self.passage_words * _MAX_STRETCH
        for sentence in sentences_of(block):
            words = sentence.split()
            if len(words) <= limit:
                yield sentence
            else:
                for start in range(0, len(words), limit):
                    yield " ".join(words[start : start + limit])
