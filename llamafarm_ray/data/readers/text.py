"""Plain text: paragraphs between blank lines, underlined or numbered headings, lists kept line by line."""

from __future__ import annotations

import re

from llamafarm_ray.data.readers.base import BrokenDocumentError, Outline, Reader, list_item
from llamafarm_ray.data.text import decode_text, num_words

__all__ = ["TextReader", "require_text"]

_UNDERLINE = re.compile(r"(=|-|~){3,}\s*$")
_ENTRY = re.compile(r"[^.!?:]{2,50}: \S")
_MAX_TITLE_WORDS = 10


def require_text(data: bytes) -> str:
    """Decode ``data``.

    Raises:
        BrokenDocumentError: it is neither UTF-8 nor UTF-16.
    """
    text = decode_text(data)
    if text is None:
        raise BrokenDocumentError("it is not text in UTF-8 or UTF-16.", hint="Save it as UTF-8.")
    return text


class TextReader(Reader):
    """``.txt`` files."""

    name = "text"
    extensions = (".txt",)

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; a short first line without a full stop is the title."""
        paragraphs = re.split(r"\n\s*\n", require_text(data).replace("\r\n", "\n").replace("\r", "\n").strip("\n"))
        title = ""
        for index, paragraph in enumerate(paragraphs):
            lines = paragraph.split("\n")
            if len(lines) > 1 and _UNDERLINE.match(lines[1]) and _is_heading(lines[0]):
                outline.heading(1 if lines[1].startswith("=") else 2, lines[0])
                lines = lines[2:]
            elif len(lines) == 1 and _is_heading(lines[0]) and (index == 0 or lines[0].isupper()):
                outline.heading(1 if index == 0 else 2, lines[0])
                lines = []
            title = title or outline.first_heading
            for block in _blocks(lines):
                outline.block(block)
        return title


def _is_heading(line: str) -> bool:
    return 0 < num_words(line) <= _MAX_TITLE_WORDS and line.rstrip()[-1] not in ".!,;:"


def _blocks(lines: list[str]) -> list[str]:
    """Join wrapped lines into one paragraph; list items and ``term: definition`` lines stay apart."""
    blocks: list[str] = []
    entries = len(lines) > 1 and all(_ENTRY.match(line) for line in lines)
    number = 0
    for line in lines:
        item = list_item(line, number)
        if item:
            text, number = item
            blocks.append(text)
        elif not blocks or entries:
            blocks.append(line)
        else:
            blocks[-1] = f"{blocks[-1]} {line.strip()}"
    return blocks
