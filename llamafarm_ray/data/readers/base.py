"""The contract of a reader: bytes of one format in, a :class:`ParsedDocument` out, or a named error."""

from __future__ import annotations

import abc
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import ClassVar

from llamafarm_ray.data.parsed import BlockMarks, Metadata, ParsedDocument, Section, TablePlace, fenced
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import Digest

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "MAX_TEXT_BYTES",
    "BrokenDocumentError",
    "DocumentError",
    "EmptyDocumentError",
    "EncryptedDocumentError",
    "Outline",
    "OversizedDocumentError",
    "Reader",
    "list_item",
    "table_lines",
]

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""Larger files are refused: a reader holds a document and its parse tree in memory."""

MAX_TEXT_BYTES = 256 * 1024 * 1024
"""The same for text and records of text; a reader takes up to ten times a file's size in memory."""

_MAX_HEADING_LEVEL = 6
_MAX_LINKS = 50
_MAX_LINK_CHARS = 2000
_NO_LINKS = ("#", "javascript:", "data:", "blob:", "about:")
_UNMARKED = BlockMarks()
_LIST_MARK = re.compile(r"\s*(?:[-*\u2022\u25cf\u25aa\u2013]|(?P<number>\d{1,2})[.)])\s+(?=\S)")


class DocumentError(InputError):
    """A document can't be used; the build skips it and reports the message as the reason."""

    code = "unreadable_document"


class BrokenDocumentError(DocumentError):
    """The bytes are not a valid document of the format that the extension promises."""

    code = "broken_document"


class EncryptedDocumentError(DocumentError):
    """The document asks for a password."""

    code = "encrypted_document"


class OversizedDocumentError(DocumentError):
    """The document is, or unpacks to, more than a reader takes."""

    code = "oversized_document"


class EmptyDocumentError(DocumentError):
    """The document is valid and has no text."""

    code = "empty_document"


class Outline:
    """Collects headings and blocks in reading order into sections with heading paths."""

    def __init__(self) -> None:
        self._path: list[tuple[int, str]] = []
        self._blocks: list[str] = []
        self._marks: list[BlockMarks] = []
        self._links: dict[str, None] = {}
        self._num_tables = 0
        self._sections: list[Section] = []
        self._page: int | None = None
        self._record = 0
        self._metadata: Metadata = ()
        self.first_heading = ""
        self._notes: list[str] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the report."""
        return tuple(self._notes)

    def note(self, text: str) -> None:
        """Add a remark on an assumption, as ``read as cp1252``, or on a part that could not be read."""
        if text not in self._notes:
            self._notes.append(text)

    def heading(self, level: int, text: str) -> None:
        """Start a section; ``level`` 1 is the outermost. An empty heading is ignored."""
        text = " ".join(text.split())
        if not text:
            return
        self._close()
        if not self._record:  # the title of one of many records is not the document's
            self.first_heading = self.first_heading or text
        self._path = [(other, title) for other, title in self._path if other < level]
        self._path.append((min(level, _MAX_HEADING_LEVEL), text))

    def block(self, text: str) -> None:
        """Add a paragraph, list item or table row; line ends in it become spaces, empty text is ignored."""
        text = " ".join(text.split())
        if text:
            self._add(text)

    def link(self, target: str) -> None:
        """Add the target of a link to the metadata of the next block; one that leads nowhere else is ignored."""
        target = "".join(target.split())
        if len(target) <= _MAX_LINK_CHARS and not target.lower().startswith(_NO_LINKS) and target:
            self._links[target] = None

    def table(self, lines: Iterable[str]) -> None:
        """Add a table, a block for each row, see :func:`table_lines`."""
        is_new = True
        for number, line in enumerate(lines, start=1):
            if row := " ".join(line.split()):
                self._num_tables += is_new
                is_new = False
                self._add(row, TablePlace(self._num_tables, number, number))

    def _add(self, block: str, table: TablePlace | None = None) -> None:
        links, self._links = tuple(self._links)[:_MAX_LINKS], {}
        self._blocks.append(block)
        self._marks.append(BlockMarks(links, table) if links or table else _UNMARKED)

    def code(self, text: str) -> None:
        """Add a code block, fenced, with its line ends and indentation; empty text is ignored."""
        lines = [line.rstrip() for line in text.expandtabs(4).splitlines()]
        while lines and not lines[0]:
            del lines[0]
        while lines and not lines[-1]:
            del lines[-1]
        if lines:
            self._add(fenced("\n".join(lines)))

    def page(self, number: int) -> None:
        """Begin a page or slide; text that follows is found there."""
        if number != self._page:
            self._close()
            self._page = number

    def record(self, metadata: Metadata = ()) -> None:
        """Begin a record of a file that holds several: no passage goes on from the text before.

        Args:
            metadata: what it says beside the text.
        """
        self._close()
        self._metadata = metadata
        self._path = []
        self._record += 1

    def sections(self) -> tuple[Section, ...]:
        """Return every section that has text."""
        self._close()
        return tuple(self._sections)

    def _close(self) -> None:
        if self._blocks:
            headings = tuple(text for _, text in self._path)
            marks = tuple(self._marks) if any(mark is not _UNMARKED for mark in self._marks) else ()
            self._sections.append(
                Section(headings, tuple(self._blocks), self._page, self._record, marks, self._metadata)
            )
        self._blocks, self._marks = [], []


class Reader(abc.ABC):
    """Base class of readers. A subclass has a name, for messages, and implements :meth:`parse`."""

    name: ClassVar[str]
    max_bytes: ClassVar[int] = MAX_DOCUMENT_BYTES

    @abc.abstractmethod
    def parse(self, data: bytes, outline: Outline) -> str:
        """Put the document's headings and text into ``outline`` and return its title ("" if it has none).

        Raises:
            DocumentError: the bytes can't be read.
        """

    def read(self, data: bytes, path: str) -> ParsedDocument:
        """Parse ``data``, the content of the file at ``path`` (relative to the source root, used for naming only).

        Raises:
            DocumentError: the document is broken, encrypted, too large or without text.
        """
        if len(data) > self.max_bytes:
            raise OversizedDocumentError(oversized_message(len(data), self.max_bytes))
        outline = Outline()
        title = " ".join(self.parse(data, outline).split())
        sections = outline.sections()
        if not sections:
            raise EmptyDocumentError("there is no text in it.")
        fallback = outline.first_heading or PurePosixPath(path).stem.replace("_", " ").replace("-", " ")
        return ParsedDocument(path, Digest.of(data), title or fallback, sections, outline.notes)


def oversized_message(num_bytes: int, limit: int = MAX_DOCUMENT_BYTES) -> str:
    """Return the reason to skip a file of this size."""
    mebibyte = 1024 * 1024
    return f"it has {num_bytes / mebibyte:.0f} MiB, more than the {limit // mebibyte} MiB that are read."


def list_item(line: str, number: int) -> tuple[str, int] | None:
    """Read a line as a list item: its text without the mark, and the number to give with the next line.

    A number counts as a mark only in its turn: "16. Ruben keeps ..." can be how a wrapped sentence goes on.

    Args:
        number: result of the last call that found an item, 0 at first.
    """
    match = _LIST_MARK.match(line)
    if match is None or (match["number"] and int(match["number"]) not in (1, number + 1)):
        return None
    return line[match.end() :], int(match["number"] or 0)


def table_lines(rows: Sequence[Sequence[str]], *, header: bool) -> list[str]:
    """A table as one line a row: ``term: definition`` with two columns, ``term - column: cell; ...`` with more.

    Args:
        rows: the cells, row by row.
        header: the first row names the columns.
    """
    cleaned = [[" ".join(cell.split()) for cell in row] for row in rows]
    names = cleaned.pop(0) if header and cleaned else []
    lines = []
    for cells in cleaned:
        if len(cells) == 2 and all(cells):  # term and definition
            lines.append(f"{cells[0]}: {cells[1]}")
        elif len(cells) > 1 and cells[0] and len(names) == len(cells) and all(names[1:]):
            pairs = [f"{name}: {cell}" for name, cell in zip(names[1:], cells[1:], strict=True) if cell]
            lines.append(f"{cells[0]} \u2013 {'; '.join(pairs)}" if pairs else cells[0])
        else:
            lines.append("; ".join(cell for cell in cells if cell))
    return [line for line in lines if line]
