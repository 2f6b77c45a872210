"""Rich Text Format (RTF), by striprtf: paragraphs and table rows."""

from __future__ import annotations

import re

from striprtf.striprtf import rtf_to_text

from llamafarm_ray.data.readers.base import BrokenDocumentError, Outline, OversizedDocumentError, Reader, list_item
from llamafarm_ray.data.readers.office.tables import rows_as_lines

__all__ = ["RtfReader"]

_MAX_CHARS = 8_000_000  # about ten seconds
_MAX_LINE_CHARS = 100_000
_PICTURE = re.compile(r"[0-9a-fA-F\r\n]{500,}")
_TITLE = re.compile(r"\{\\info.{0,2000}?\{\\title ([^{}\\]{1,300})\}", re.DOTALL)


class RtfReader(Reader):
    """``.rtf`` files. Pictures, headers, footers and footnotes are not read; headings are paragraphs."""

    name = "RTF"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the title is the document's property."""
        if not data.lstrip().startswith(b"{\\rtf"):
            raise BrokenDocumentError("it is not a valid RTF file (it does not begin as one).")
        source = _PICTURE.sub("", data.decode("latin-1"))
        if len(source) > _MAX_CHARS:
            raise OversizedDocumentError(f"it has more than {_MAX_CHARS} characters without its pictures.")
        title = _TITLE.search(source)
        table: list[list[str]] = []
        number = 0
        for line in _text(source).split("\n"):
            if "|" in line:
                table.append(line.rstrip("|").split("|"))
                continue
            _add_table(table, outline)
            table = []
            item = list_item(line, number)
            text, number = item or (line, number)
            outline.block(text)
        _add_table(table, outline)
        return title[1] if title else ""


def _text(source: str) -> str:
    # striprtf's patterns look ahead to the end of a line: lines are kept short, and links are left to its main loop.
    source = source.replace("{\\field{", "{\\field {").replace("{", "\n{").replace("\\par", "\n\\par")
    if any(len(line) > _MAX_LINE_CHARS for line in source.split("\n")):
        raise BrokenDocumentError(f"it has a run of over {_MAX_LINE_CHARS} characters without a paragraph.")
    try:
        return str(rtf_to_text(source, errors="replace"))  # type: ignore[no-untyped-call]
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise BrokenDocumentError(f"it is not a valid RTF file ({type(error).__name__}: {error}).") from error


def _add_table(rows: list[list[str]], outline: Outline) -> None:
    outline.table(rows_as_lines(rows))
