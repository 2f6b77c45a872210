"""Split documents into passages: whole sentences of one section, about as many words as asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from llamafarm_ray.data.parsed import BlockMarks, ParsedDocument, Passage, Section, TablePlace, fenced, is_code
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
            runs = itertools.groupby(
                document.sections, key=lambda section: (section.headings, section.record, section.metadata)
            )
            for (headings, _, metadata), sections in runs:
                for text, page, marks in self._split(sections, document.language):
                    passage = Passage(document.path, document.digest, document.title, headings, text, index, page=page)
                    passage = replace(passage, links=_links(marks), tables=_tables(marks), metadata=metadata)
                    yield replace(passage, language=language_of(passage.prose, document.language))
                    index += 1

    def _split(
        self, sections: Iterable[Section], language: str
    ) -> Iterator[tuple[str, int | None, Sequence[BlockMarks]]]:
        """Yield the text of each passage, the page on which it begins, and the metadata of its blocks."""
        text, words, page = "", 0, None
        marks: list[BlockMarks] = []
        blocks = ((block, own, section.page) for section in sections for block, own in section.marked_blocks())
        for block, own, on_page in blocks:
            separator = "\n"
            for piece in self._pieces(block, language):
                count = num_words(piece)
                if text and words + count > self.passage_words:
                    yield text, page, marks
                    text, words, marks = "", 0, []
                between = separator or sentence_separator(text, piece)
                text, page = (f"{text}{between}{piece}", page) if text else (piece, on_page)
                words += count
                separator = ""
                if not marks or marks[-1] is not own:
                    marks.append(own)
        if text:
            yield text, page, marks

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


def _links(marks: Iterable[BlockMarks]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(link for mark in marks for link in mark.links))


def _tables(marks: Iterable[BlockMarks]) -> tuple[TablePlace, ...]:
    """Return the rows of each table that blocks are from."""
    rows: dict[int, list[int]] = {}
    for mark in marks:
        if mark.table is not None:
            rows.setdefault(mark.table.table, []).append(mark.table.first_row)
    return tuple(TablePlace(table, min(numbers), max(numbers)) for table, numbers in rows.items())


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
