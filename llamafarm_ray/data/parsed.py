"""A parsed document, its sections and its passages."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from llamafarm_ray.types import Digest

__all__ = [
    "BlockMarks",
    "Metadata",
    "ParsedDocument",
    "Passage",
    "Section",
    "TablePlace",
    "fenced",
    "is_code",
    "metadata_of",
]

_FENCE = "```"


def metadata_of(read: Mapping[str, str] | Iterable[Sequence[str]]) -> Metadata:
    """Return names and values that were read from JSON, as an object or as pairs."""
    return tuple((name, value) for name, value in (read.items() if isinstance(read, Mapping) else read))


def fenced(code: str) -> str:
    """Return ``code`` as a block between fences, as in Markdown; a fence is longer than any run of ticks in it."""
    fence = _FENCE
    while fence in code:
        fence += "`"
    return f"{fence}\n{code}\n{fence}"


def is_code(block: str) -> bool:
    """Return True if ``block`` is a code block made by :func:`fenced`."""
    return block.startswith(_FENCE) and "\n" in block


Metadata = tuple[tuple[str, str], ...]
"""Names and values."""


@dataclass(frozen=True, slots=True)
class TablePlace:
    """Rows of a table of a document.

    Args:
        table: number of the table in its document, 1 the first.
        first_row: number of the first row, 1 the first below the header.
        last_row: number of the last row.
    """

    table: int
    first_row: int
    last_row: int


@dataclass(frozen=True, slots=True)
class BlockMarks:
    """Metadata of a block of text.

    Args:
        links: targets of the links in it, as the document has them.
        table: the row of a table that it is; None for other text.
    """

    links: tuple[str, ...] = ()
    table: TablePlace | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A run of text under one heading.

    Args:
        headings: the path of headings down to it, outermost first; empty before the first heading.
        blocks: paragraphs, list items and table rows as text, each without line ends. A table row or definition
            reads ``term: definition``. A code block keeps its lines between two fences, see :func:`fenced`.
        page: number of the page or slide on which it begins, 1 the first; None for formats without pages.
        record: number of the record it belongs to, 1 the first; 0 for formats without records.
        marks: metadata of each block; empty if no block has any.
        metadata: names and values of what its record says beside the text.
    """

    headings: tuple[str, ...]
    blocks: tuple[str, ...]
    page: int | None = None
    record: int = 0
    marks: tuple[BlockMarks, ...] = ()
    metadata: Metadata = ()

    def marked_blocks(self) -> Iterator[tuple[str, BlockMarks]]:
        """Yield each block with its metadata."""
        yield from zip(self.blocks, self.marks or itertools.repeat(BlockMarks(), len(self.blocks)), strict=True)


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document after its reader: nothing of the file format is left.

    Args:
        path: relative to the source.
        digest: of the file's bytes.
        title: "" if it has none.
        notes: remarks of the reader for the report, as a part that could not be read.
        language: ISO 639-1 code of most of it, "" if it is not known.
    """

    path: str
    digest: Digest
    title: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
    language: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a section, whole sentences; blocks are separated by a line end.

    Args:
        document_digest: digest of its bytes.
        num_passages: number of passages of the document; 0 if it is not known yet.
        page: page or slide on which it begins, from 1; None for formats without pages.
        pii: kinds of personal data that the passage is tagged with.
        language: ISO 639-1 code, "" if it is not known.
        links: targets of the links in its blocks, each once.
        tables: rows of tables that are in it.
        metadata: of its record, see `Section`.
    """

    document: str
    document_digest: Digest
    title: str
    headings: tuple[str, ...]
    text: str
    index: int
    num_passages: int = 0
    page: int | None = None
    pii: tuple[str, ...] = ()
    language: str = ""
    links: tuple[str, ...] = ()
    tables: tuple[TablePlace, ...] = ()
    metadata: Metadata = ()

    def to_json(self) -> str:
        """Return the passage as JSON, for a column of a table."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` returned."""
        values = json.loads(text)
        digest = Digest(values["document_digest"])
        lists = {name: tuple(values.get(name, ())) for name in ("headings", "pii", "links")}
        lists["tables"] = tuple(TablePlace(**place) for place in values.get("tables", ()))
        lists["metadata"] = metadata_of(values.get("metadata", ()))
        return cls(**{**values, **lists, "document_digest": digest})

    @property
    def with_headings(self) -> str:
        """The text under a line of its title and headings: alone, a sentence often lacks its subject."""
        line = ", ".join(dict.fromkeys(part for part in (self.title, *self.headings) if part))
        return f"{line}\n{self.text}" if line else self.text

    @property
    def prose(self) -> str:
        """The text without code blocks."""
        return "\n".join(line for line, _ in self.prose_lines())

    def prose_lines(self) -> Iterator[tuple[str, bool]]:
        """Yield each line that is no code, and whether code comes next."""
        fence, before = "", None
        for line in self.text.splitlines():
            if fence:
                fence = "" if line == fence else fence
                continue
            is_fence = line.startswith(_FENCE) and not line.strip("`")
            if before is not None:
                yield before, is_fence
            fence, before = (line, None) if is_fence else ("", line)
        if before is not None:
            yield before, False
