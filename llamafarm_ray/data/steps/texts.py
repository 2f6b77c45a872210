"""Join the passages of a document into longer texts, for continued pre-training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example, Message
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.data.text import num_words

__all__ = ["JoinTexts"]

_WORDS_PER_TEXT = 1000


class JoinTexts(Step[Passage, Example]):
    """Makes texts of about 1,000 words from the passages of a document, each heading on a line of its own."""

    name = "texts"

    def apply(self, rows: Iterable[Passage]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`."""
        parts: list[str] = []
        first: Passage | None = None
        headings: tuple[str, ...] = ()
        words = 0
        for passage in rows:
            count = num_words(passage.text)
            if first is not None and words + count > _WORDS_PER_TEXT:
                yield _example(first, parts)
                first, parts, words = None, [], 0
            if passage.headings != headings:
                parts += _new_headings(headings, passage.headings)
                headings = passage.headings
            first = first or passage
            parts.append(passage.text)
            words += count
        if first is not None:
            yield _example(first, parts)


def _new_headings(before: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    """Return the headings of a section that the section before it is not under, too."""
    shared = next((at for at, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1]), len(before))
    return list(now[shared:])


def _example(first: Passage, parts: list[str]) -> Example:
    text = "\n\n".join(parts)
    return Example((Message("user", text),), first.document, first.document_digest, text, passage_index=first.index)
