"""Word documents (DOCX): the paragraphs, tables and notes of the document's XML, in reading order.

The XML is walked as it is: python-docx takes ten times as long, and gives neither tracked insertions nor content
controls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llamafarm_ray.data.readers.base import Outline, Reader
from llamafarm_ray.data.readers.office.tables import rows_as_lines
from llamafarm_ray.data.readers.package import Package

if TYPE_CHECKING:
    from lxml.etree import _Element

__all__ = ["DocxReader"]

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_HEADING = re.compile(r"heading ?(\d)", re.IGNORECASE)
_MAX_DEPTH = 100
# Deleted and moved text, text boxes (their fallback repeats them), and what draws or instructs instead of saying.
_SKIPPED = frozenset(
    [f"{_W}{name}" for name in ("del", "moveFrom", "pPr", "rPr", "sdtPr", "instrText", "delText", "tblPr", "sectPr")]
    + [f"{_MC}Fallback", f"{_W}drawing", f"{_W}pict", f"{_W}object", f"{_W}txbxContent"]
)


class DocxReader(Reader):
    """``.docx`` files: insertions accepted, deletions and hidden text left out, footnotes after their paragraph.

    Headers, footers, comments and text boxes are not read.
    """

    name = "DOCX"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; a paragraph in style *Title* is the title, else the document's property."""
        with Package(data, self.name) as package:
            body = _root(package, "word/document.xml").find(f"{_W}body")
            if body is None:
                raise package.broken("it has no body")
            walk = _Walk(outline, _styles(package), _notes(package), _link_targets(package))
            walk.blocks(body)
            return walk.title or _property_title(package)


def _root(package: Package, name: str) -> _Element:
    """Return the root of a part, in the usual namespace: Office's strict form has another for the same names."""
    root = package.xml(name)
    if root.tag.startswith(_STRICT):
        for element in root.iter(f"{_STRICT}*"):
            element.tag = _W + element.tag[len(_STRICT) :]
            for key in [key for key in element.attrib if key.startswith(_STRICT)]:
                element.set(_W + key[len(_STRICT) :], element.attrib.pop(key))
    return root


class _Styles:
    """Names and properties of styles by id.

    Args:
        names: the name of each.
        hidden: ids of those whose text is hidden.
        outline: heading level of each that has one, 1 the outermost.
    """

    def __init__(self, names: dict[str, str], hidden: set[str], outline: dict[str, int]) -> None:
        self.names, self.hidden, self.outline = names, hidden, outline


def _styles(package: Package) -> _Styles:
    names: dict[str, str] = {}
    hidden: set[str] = set()
    levels: dict[str, int] = {}
    if "word/styles.xml" in package.names:
        for style in _root(package, "word/styles.xml").iter(f"{_W}style"):
            key, name = style.get(f"{_W}styleId", ""), style.find(f"{_W}name")
            names[key] = name.get(f"{_W}val", "") if name is not None else ""
            if _is_on(style.find(f"{_W}rPr/{_W}vanish")):
                hidden.add(key)
            named = _HEADING.fullmatch(names[key])
            level = style.find(f"{_W}pPr/{_W}outlineLvl")
            if named:
                levels[key] = int(named[1])
            elif level is not None and level.get(f"{_W}val", "9") in "012345678":
                levels[key] = int(level.get(f"{_W}val")) + 1
    return _Styles(names, hidden, levels)


def _notes(package: Package) -> dict[tuple[str, str], _Element]:
    """Return footnotes and endnotes by kind and id."""
    found = {}
    for kind in ("footnote", "endnote"):
        name = f"word/{kind}s.xml"
        if name in package.names:
            for note in _root(package, name).iter(f"{_W}{kind}"):
                if note.get(f"{_W}type") is None:  # the others are lines between text and notes
                    found[kind, note.get(f"{_W}id", "")] = note
    return found


def _link_targets(package: Package) -> dict[str, str]:
    """Return the targets of links by the ids of their relationships."""
    name = "word/_rels/document.xml.rels"
    if name not in package.names:
        return {}
    relationships = package.xml(name)
    return {
        one.get("Id", ""): one.get("Target", "") for one in relationships if one.get("Type", "").endswith("/hyperlink")
    }


def _property_title(package: Package) -> str:
    if "docProps/core.xml" not in package.names:
        return ""
    title = package.xml("docProps/core.xml").find("{http://purl.org/dc/elements/1.1/}title")
    return "".join(title.itertext()) if title is not None else ""


def _is_on(switch: _Element) -> bool:
    return switch is not None and switch.get(f"{_W}val", "true") not in {"0", "false", "off"}


class _Walk:
    def __init__(
        self, outline: Outline, styles: _Styles, notes: dict[tuple[str, str], _Element], links: dict[str, str]
    ) -> None:
        self._outline = outline
        self._styles = styles
        self._notes = notes
        self._links = links
        self._cited: list[tuple[str, str]] = []
        self.title = ""

    def blocks(self, parent: _Element) -> None:
        """Add the paragraphs and tables below ``parent``."""
        for element in _content(parent):
            if element.tag == f"{_W}p":
                self._paragraph(element)
            else:
                self._table(element)

    def _paragraph(self, paragraph: _Element) -> None:
        style = paragraph.find(f"{_W}pPr/{_W}pStyle")
        style_id = style.get(f"{_W}val", "") if style is not None else ""
        text = self._text(paragraph)
        level = self._level(paragraph, style_id)
        if self._styles.names.get(style_id, "").lower() == "title" and not self.title and text.strip():
            self.title = text
        elif level:
            self._outline.heading(level, text)
        elif not self._styles.names.get(style_id, "").lower().startswith("toc "):
            for line in text.split("\n"):
                self._outline.block(line)
        self._add_notes()

    def _level(self, paragraph: _Element, style_id: str) -> int:
        own = paragraph.find(f"{_W}pPr/{_W}outlineLvl")
        if own is not None and own.get(f"{_W}val", "9") in "012345678":
            return int(own.get(f"{_W}val")) + 1
        named = _HEADING.fullmatch(style_id)
        return self._styles.outline.get(style_id, int(named[1]) if named else 0)

    def _text(self, paragraph: _Element) -> str:
        parts: list[str] = []
        stack = [paragraph]
        while stack:
            element = stack.pop()
            tag = element.tag
            if tag == f"{_W}t":
                parts.append(element.text or "")
            elif tag == f"{_W}tab":
                parts.append(" ")
            elif tag in {f"{_W}br", f"{_W}cr"}:
                parts.append("\n")
            elif tag == f"{_W}noBreakHyphen":
                parts.append("-")
            elif tag in {f"{_W}footnoteReference", f"{_W}endnoteReference"}:
                self._cited.append((tag[len(_W) :].removesuffix("Reference"), element.get(f"{_W}id", "")))
            elif tag not in _SKIPPED and not (tag == f"{_W}r" and self._is_hidden(element)):
                if tag == f"{_W}hyperlink":
                    self._outline.link(self._links.get(element.get(_ID, ""), ""))
                stack.extend(reversed(element))
        return "".join(parts)

    def _is_hidden(self, run: _Element) -> bool:
        properties = run.find(f"{_W}rPr")
        if properties is None:
            return False
        switch = properties.find(f"{_W}vanish")
        if switch is not None:
            return _is_on(switch)
        style = properties.find(f"{_W}rStyle")
        return style is not None and style.get(f"{_W}val") in self._styles.hidden

    def _add_notes(self) -> None:
        cited, self._cited = self._cited, []
        for key in cited:
            note = self._notes.pop(key, None)
            if note is not None:
                self._outline.block(" ".join(self._text(paragraph) for paragraph in note.iter(f"{_W}p")))

    def _table(self, table: _Element, depth: int = 0) -> None:
        """Add a table as rows; a table in a cell follows with rows of its own."""
        nested: list[_Element] = []
        rows = [
            [self._cell(cell, nested) for cell in _content(row, f"{_W}tc")]
            for row in _content(table, f"{_W}tr")
            if row.find(f"{_W}trPr/{_W}del") is None
        ]
        self._outline.table(rows_as_lines(rows))
        self._add_notes()
        for inner in nested if depth < _MAX_DEPTH else ():
            self._table(inner, depth + 1)

    def _cell(self, cell: _Element, nested: list[_Element]) -> str:
        texts = []
        for element in _content(cell):
            if element.tag == f"{_W}p":
                texts.append(self._text(element))
            else:
                nested.append(element)
        return " ".join(texts)


def _content(parent: _Element, *tags: str) -> Iterator[_Element]:
    """Yield the paragraphs and tables (or ``tags``) of ``parent``, those in content controls and insertions too."""
    wanted = tags or (f"{_W}p", f"{_W}tbl")
    stack = list(reversed(parent))
    while stack:
        element = stack.pop()
        if element.tag in wanted:
            yield element
        elif element.tag not in _SKIPPED:
            stack.extend(reversed(element))
