"""Clean: one spelling of every character (Unicode NFC), one space between words, nothing invisible."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace

from llamafarm_ray.data.parsed import ParsedDocument, Section, is_code
from llamafarm_ray.data.steps.base import Dropped, Step

__all__ = ["Clean", "clean_text"]

# Soft hyphen, zero-width space, directional marks, word joiner, byte order mark, replacement character; and joiners,
# but between letters of Arabic script and those of India, where they are spelling.
_INVISIBLE = re.compile(
    "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufffd]"
    "|(?<![\u0620-\u0dff])[\u200c\u200d]|[\u200c\u200d](?![\u0620-\u0dff])"
)
_LIGATURES = str.maketrans({"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl"})


class Clean(Step[ParsedDocument, ParsedDocument]):
    """Cleans titles, headings and blocks; drops those that are empty afterwards."""

    name = "clean"

    def apply(self, rows: Iterable[ParsedDocument]) -> Iterator[ParsedDocument | Dropped]:
        """See :meth:`Step.apply`."""
        for document in rows:
            sections = tuple(section for section in map(_clean_section, document.sections) if section.blocks)
            if sections:
                yield replace(document, title=clean_text(document.title), sections=sections)
            else:
                yield Dropped("no text left")


def _clean_section(section: Section) -> Section:
    cleaned = [(_clean_block(block), marks) for block, marks in section.marked_blocks()]
    kept = [(block, marks) for block, marks in cleaned if any(c.isalnum() for c in block)]
    return replace(
        section,
        headings=tuple(heading for heading in map(clean_text, section.headings) if heading),
        blocks=tuple(block for block, _ in kept),
        marks=tuple(marks for _, marks in kept) if section.marks else (),
    )


def _clean_block(block: str) -> str:
    """Return a cleaned block; the lines of a code block keep their ends and their indentation."""
    if not is_code(block):
        return clean_text(block)
    lines = block.split("\n")
    return "\n".join(line[: len(line) - len(line.lstrip(" "))] + clean_text(line) for line in lines)


def clean_text(text: str) -> str:
    """``text`` on one line, in NFC, without control and invisible characters; cleaning twice changes nothing."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    text = _INVISIBLE.sub("", text.translate(_LIGATURES))
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zs", "Zl", "Zp") else c for c in text if _is_text(c))
    return " ".join(unicodedata.normalize("NFC", text).split())


def _is_text(character: str) -> bool:
    return unicodedata.category(character) not in ("Cs", "Co", "Cn")
