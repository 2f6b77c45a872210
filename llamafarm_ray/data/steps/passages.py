"""Split documents into passages: whole sentences of one section, about as many words as asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from llamafarm_ray.data.rows import ParsedDocument, Passage, Section, fenced, is_code
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.data.text import cut_words, language_of, num_words, sentence_separator, sentences_of

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
            # A section that goes on over several pages is one run of text.
            runs = itertools.groupby(document.sections, key=lambda section: (section.headings, section.record))
            for (headings, _), sections in runs:
                for text, page in self._split(sections, document.language):
                    passage = Passage(document.path, document.digest, document.title, headings, text, index, page=page)
                    yield replace(passage, language=language_of(passage.prose, document.language))
                    index += 1

    def _split(self, sections: Iterable[Section], language: str) -> Iterator[tuple[str, int | None]]:
        """Yield the text of each passage, and the page on which it begins."""
        text, words, page = "", 0, None
        for block, on_page in ((block, section.page) for section in sections for block in section.blocks):
            separator = "\n"
            for piece in self._pieces(block, language):
                count = num_words(piece)
                if text and words + count > self.passage_words:
                    yield text, page
                    text, words = "", 0
                between = separator or sentence_separator(text, piece)
                text, page = (f"{text}{between}{piece}", page) if text else (piece, on_page)
                words += count
                separator = ""
        if text:
            yield text, page

    def _pieces(self, block: str, language: str) -> Iterator[str]:
        """Yield the sentences of ``block``, or its code as a whole; what alone is far too long is cut."""
        limit = self.passage_words * _MAX_STRETCH
        if is_code(block):
            yield from _code_pieces(block, limit)
            return
        for sentence in sentences_of(block, language):
            if num_words(sentence) <= limit:
                yield sentence
            else:
                yield from cut_words(sentence, limit)


def _code_pieces(block: str, limit: int) -> Iterator[str]:
    """Yield code in pieces of at most ``limit`` words and a line, each between fences."""
    lines: list[str] = []
    words = 0
    for line in block.split("\n")[1:-1]:
        lines.append(line)
        words += num_words(line)
        if words >= limit:
            yield fenced("\n".join(lines))
            lines, words = [], 0
    if lines:
        yield fenced("\n".join(lines))
