"""Org, Emacs' outline format: headings, paragraphs, lists, tables and source blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llamafarm_ray.data.readers.base import Outline, Reader, list_item, table_lines
from llamafarm_ray.data.readers.text import require_text
from llamafarm_ray.data.text import unwrapped

__all__ = ["OrgReader"]

_HEADING = re.compile(r"(\*+)\s+(?:(?:TODO|DONE|NEXT|WAITING|CANCELLED)\s+)?(?:\[#\w\]\s+)?(.*?)(?:\s+:[\w@:]+:)?\s*$")
_TITLE = re.compile(r"#\+title:\s*(.*)", re.IGNORECASE)
_BEGIN = re.compile(r"\s*#\+begin_(\w+)", re.IGNORECASE)
_CODE_BLOCKS = {"src", "example"}
_DROPPED_BLOCKS = {"comment", "export"}
_DRAWER = re.compile(r"\s*:(?!end:)[\w-]+:\s*$", re.IGNORECASE)
_DROPPED_LINE = re.compile(r"\s*#(?:\s|\+|$)|\s*(?:SCHEDULED|DEADLINE|CLOSED):")
_LINK = re.compile(r"\[\[([^\]]+)\](?:\[([^\]]+)\])?\]")
_MARK = re.compile(r"(?<![\w*/=~+])([*/=~+])(?=\S)(.+?)(?<=\S)\1(?![\w*/=~+])")
_TERM = re.compile(r"(\S.*?)\s+::\s+(?=\S)")


class OrgReader(Reader):
    """``.org`` files; ``#+TITLE:`` is the title. Drawers, comments and planning lines are left out."""

    name = "Org"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        page = _Page(outline)
        lines = iter(require_text(data, outline).splitlines())
        for line in lines:
            if not page.table_row(line.strip()) and not page.structure(line, lines):
                page.text(line)
        page.flush()
        return page.title


class _Page:
    """Gathers the lines of a paragraph or table until something else begins."""

    def __init__(self, outline: Outline) -> None:
        self.title = ""
        self._outline = outline
        self._paragraph: list[str] = []
        self._table: list[list[str]] = []
        self._has_header = False
        self._number = 0

    def _add(self, text: str) -> None:
        for link in _LINK.finditer(text):
            self._outline.link(link[1])
        self._outline.block(_inline(unwrapped(text)))

    def flush(self) -> None:
        """Add what was gathered to the outline."""
        self._add("\n".join(self._paragraph))
        self._outline.table(table_lines(self._table, header=self._has_header))
        self._paragraph, self._table, self._has_header = [], [], False

    def table_row(self, line: str) -> bool:
        """Take a line of a table; False if it is none."""
        if not line.startswith("|"):
            if self._table:
                self.flush()
            return False
        if line.startswith("|-"):
            self._has_header = self._has_header or len(self._table) == 1
        else:
            self._table.append([_inline(cell.strip()) for cell in line.strip("|").split("|")])
        return True

    def structure(self, line: str, lines: Iterator[str]) -> bool:
        """Take a heading, a title, a block or a drawer, with its lines; False if the line is none."""
        if heading := _HEADING.match(line):
            self.flush()
            self._outline.heading(len(heading[1]), _inline(heading[2]))
        elif named := _TITLE.match(line.strip()):
            self.title = named[1]
        elif block := _BEGIN.match(line):
            self.flush()
            kind = block[1].lower()
            content = "\n".join(_until(lines, f"#+end_{kind}"))
            if kind in _CODE_BLOCKS:
                self._outline.code(content)
            elif kind not in _DROPPED_BLOCKS:
                self._add(content)
        elif _DRAWER.match(line):
            _until(lines, ":end:")
        else:
            return _DROPPED_LINE.match(line) is not None
        return True

    def text(self, line: str) -> None:
        """Take a line of a paragraph or a list item."""
        item = list_item(line, self._number)
        if item or not line.strip():
            self.flush()
        if item:
            text, self._number = item
            self._paragraph.append(_TERM.sub(r"\1: ", re.sub(r"^\[[ X-]\]\s+", "", text)))
        elif line.strip():
            self._paragraph.append(line.strip())


def _until(lines: Iterator[str], end: str) -> list[str]:
    found = []
    for line in lines:
        if line.strip().lower() == end:
            break
        found.append(line)
    return found


def _inline(text: str) -> str:
    return _MARK.sub(r"\2", _LINK.sub(lambda match: match[2] or match[1], text))
