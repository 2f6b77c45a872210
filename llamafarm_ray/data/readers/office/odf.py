"""OpenDocument text (ODT) and sheets (ODS): the paragraphs, tables and notes of the document's XML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llamafarm_ray.data.readers.base import EncryptedDocumentError, Outline, Reader
from llamafarm_ray.data.readers.office.tables import rows_as_lines
from llamafarm_ray.data.readers.package import Package

if TYPE_CHECKING:
    from lxml.etree import _Element

__all__ = ["OdsReader", "OdtReader"]

_NS = "{urn:oasis:names:tc:opendocument:xmlns:%s:1.0}"
_OFFICE, _TEXT, _TABLE, _STYLE = (_NS % name for name in ("office", "text", "table", "style"))
_DRAW = _NS % "drawing"
_TARGET = "{http://www.w3.org/1999/xlink}href"
_MANIFEST = "META-INF/manifest.xml"
_SKIPPED = frozenset(
    [f"{_OFFICE}annotation", f"{_OFFICE}annotation-end", f"{_DRAW}frame", f"{_DRAW}custom-shape"]
    + [
        _TEXT + name
        for name in (
            *("tracked-changes", "table-of-content", "illustration-index", "table-index", "object-index", "user-index"),
            *(
                "alphabetical-index",
                "bibliography",
                "hidden-text",
                "hidden-paragraph",
                "note-citation",
                "sequence-decls",
            ),
        )
    ]
)
_MAX_REPEATED = 64
_MAX_CELLS = 1_000_000
_MAX_DEPTH = 100


class OdtReader(Reader):
    """``.odt`` files: tracked changes accepted, footnotes after their paragraph, hidden text and comments left out."""

    name = "ODT"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the title is the document's property, else a paragraph in style *Title*."""
        with Package(data, self.name) as package:
            content, body = _open(package, "text")
            walk = _Walk(outline, content)
            walk.blocks(body)
            return _property_title(package) or walk.title


class OdsReader(Reader):
    """``.ods`` files: values as they are shown, rows below the name of their sheet."""

    name = "ODS"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the title is the document's property."""
        with Package(data, self.name) as package:
            content, body = _open(package, "spreadsheet")
            walk = _Walk(outline, content)
            for sheet in body.iterfind(f"{_TABLE}table"):
                outline.heading(1, sheet.get(f"{_TABLE}name", ""))
                walk.table(sheet)
            return _property_title(package)


def _open(package: Package, kind: str) -> tuple[_Element, _Element]:
    """Return the root of the content, and its body."""
    if _MANIFEST in package.names and package.xml(_MANIFEST).find(".//{*}encryption-data") is not None:
        raise EncryptedDocumentError("it is encrypted.", hint="Save it without a password.")
    content = package.xml("content.xml")
    body = content.find(f"{_OFFICE}body/{_OFFICE}{kind}")
    if body is None:
        raise package.broken(f"it has no {kind}")
    return content, body


def _property_title(package: Package) -> str:
    title = (
        package.xml("meta.xml").find(".//{http://purl.org/dc/elements/1.1/}title")
        if "meta.xml" in package.names
        else None
    )
    return "".join(title.itertext()) if title is not None else ""


class _Walk:
    def __init__(self, outline: Outline, content: _Element) -> None:
        self._outline = outline
        styles = list(content.iter(f"{_STYLE}style"))
        self._parents = {style.get(f"{_STYLE}name"): style.get(f"{_STYLE}parent-style-name", "") for style in styles}
        self._hidden = {
            style.get(f"{_STYLE}name")
            for style in styles
            if any(properties.get(f"{_TEXT}display") == "none" for properties in style.iter(f"{_STYLE}text-properties"))
        }
        self._notes: list[_Element] = []
        self._num_cells = 0
        self.title = ""

    def blocks(self, parent: _Element) -> None:
        """Add the headings, paragraphs and tables below ``parent``."""
        for element in _content(parent, f"{_TEXT}h", f"{_TEXT}p", f"{_TABLE}table"):
            if element.tag == f"{_TABLE}table":
                self.table(element)
                continue
            text = self._text(element)
            style = element.get(f"{_TEXT}style-name", "")
            level = element.get(f"{_TEXT}outline-level", "1")
            if element.tag == f"{_TEXT}h":
                self._outline.heading(int(level) if level.isdecimal() else 1, text)
            elif "Title" in {style, self._parents.get(style)} and not self.title:
                self.title = text
            else:
                for line in text.split("\n"):
                    self._outline.block(line)
            self._add_notes()

    def table(self, table: _Element, depth: int = 0) -> None:
        """Add a table as rows, an empty row ends one; a table in a cell follows with rows of its own."""
        nested: list[_Element] = []
        rows: list[list[str]] = []
        for row in _content(table, f"{_TABLE}table-row"):
            cells = self._cells(row, nested)
            if any(cells):
                rows.append(cells)
            elif rows:
                self._add_rows(rows)
                rows = []
            if self._num_cells > _MAX_CELLS:
                self._outline.note(f"the tables have more than {_MAX_CELLS} cells; the rest was left out.")
                break
        self._add_rows(rows)
        self._add_notes()
        for inner in nested if depth < _MAX_DEPTH else ():
            self.table(inner, depth + 1)

    def _add_rows(self, rows: list[list[str]]) -> None:
        width = max(map(len, rows), default=0)
        full = [[*row, *[""] * (width - len(row))] for row in rows]
        used = [column for column in range(width) if any(row[column] for row in full)]
        self._outline.table(rows_as_lines([[row[column] for column in used] for row in full]))

    def _cells(self, row: _Element, nested: list[_Element]) -> list[str]:
        """Return the texts of a row; cells that repeat stand as often as they do, within limits."""
        texts: list[str] = []
        for cell in _content(row, f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell"):
            parts = []
            for element in _content(cell, f"{_TEXT}p", f"{_TEXT}h", f"{_TABLE}table"):
                if element.tag == f"{_TABLE}table":
                    nested.append(element)
                else:
                    parts.append(self._text(element))
            repeated = cell.get(f"{_TABLE}number-columns-repeated", "1")
            count = int(repeated) if repeated.isdecimal() and len(repeated) < 6 else 1  # 16,384 columns
            texts += [" ".join(" ".join(parts).split())] * min(count, _MAX_REPEATED)
        while texts and not texts[-1]:
            texts.pop()
        self._num_cells += len(texts)
        return texts

    def _text(self, paragraph: _Element) -> str:
        parts: list[str] = []
        stack: list[_Element] = [paragraph]
        while stack:
            element = stack.pop()
            if isinstance(element, str):
                parts.append(element)
                continue
            tag = element.tag
            if tag == f"{_TEXT}note":
                self._notes.append(element)
            elif tag in {f"{_TEXT}s", f"{_TEXT}tab"}:
                parts.append(" ")
            elif tag == f"{_TEXT}line-break":
                parts.append("\n")
            elif tag not in _SKIPPED and element.get(f"{_TEXT}style-name") not in self._hidden:
                if tag == f"{_TEXT}a":
                    self._outline.link(element.get(_TARGET, ""))
                for child in reversed(element):
                    stack += [child.tail or "", child]
                stack.append(element.text or "")
        return "".join(parts)

    def _add_notes(self) -> None:
        notes, self._notes = self._notes, []
        for note in notes:
            self._outline.block(" ".join(self._text(paragraph) for paragraph in note.iter(f"{_TEXT}p")))


def _content(parent: _Element, *tags: str) -> Iterator[_Element]:
    """Yield the elements of these names below ``parent``, but not those inside another of them."""
    stack = list(reversed(parent))
    while stack:
        element = stack.pop()
        if element.tag in tags:
            yield element
        elif element.tag not in _SKIPPED:
            stack.extend(reversed(element))
