"""Tables of a page: those that hold data become rows, those that only lay out the page don't."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from llamafarm_ray.data.readers.base import table_lines
from llamafarm_ray.data.readers.web.elements import HEADINGS, squeezed_text

if TYPE_CHECKING:
    from lxml.etree import _Element

__all__ = ["data_lines"]

_MAX_SPAN = 100
_MAX_CELLS = 1_000_000
_MAX_TERM_WORDS = 12
_MAX_PAIR_WORDS = 6


def data_lines(table: _Element, dropped: Container[_Element]) -> list[str] | None:
    """Return a table of data as lines, see :func:`table_lines`; None if it lays out the page."""
    if table.get("role") in {"presentation", "none"} or table.find(".//table") is not None:
        return None
    rows = [row for row in _rows_of(table) if row not in dropped and len(row)]
    cells = [[cell for cell in row if cell.tag in {"td", "th"} and cell not in dropped] for row in rows]
    if any(cell.find(f".//{heading}") is not None for row in cells for cell in row for heading in HEADINGS):
        return None
    grid = _grid(cells, dropped)
    has_header = bool(cells) and len(cells) > 1 and all(cell.tag == "th" for cell in cells[0])
    marked = has_header or table.find("caption") is not None or any(cell.tag == "th" for row in cells for cell in row)
    if not marked and not _looks_like_data(grid):
        return None
    caption = table.find("caption")
    title = [squeezed_text(caption, dropped)] if caption is not None and caption not in dropped else []
    return title + table_lines(grid, header=has_header)


def _rows_of(table: _Element) -> list[_Element]:
    rows = []
    for child in table:
        if child.tag == "tr":
            rows.append(child)
        elif child.tag in {"thead", "tbody", "tfoot"}:
            rows.extend(row for row in child if row.tag == "tr")
    return rows


def _grid(rows: list[list[_Element]], dropped: Container[_Element]) -> list[list[str]]:
    """Return the texts of cells by row and column; a cell over several rows or columns stands in each.

    A cell over the whole width stands alone: it names the rows below it.
    """
    below: dict[int, tuple[int, str]] = {}  # by column: for how many more rows a text goes on
    grid: list[list[str]] = []
    num_cells = 0
    for row in rows:
        line: list[str] = []
        for cell in row:
            _fill(line, below)
            text = squeezed_text(cell, dropped)
            height, width = _span(cell, "rowspan"), _span(cell, "colspan")
            if width > 1 and len(row) == 1:
                width = 1
            for _ in range(width):
                if height > 1:
                    below[len(line)] = (height - 1, text)
                line.append(text)
        _fill(line, below)
        num_cells += len(line)
        if num_cells > _MAX_CELLS:
            break
        grid.append(line)
    return grid


def _fill(line: list[str], below: dict[int, tuple[int, str]]) -> None:
    while len(line) in below:
        column = len(line)
        left, text = below.pop(column)
        if left > 1:
            below[column] = (left - 1, text)
        line.append(text)


def _span(cell: _Element, name: str) -> int:
    value = cell.get(name, "1").strip()
    return min(max(int(value), 1), _MAX_SPAN) if value.isdecimal() and value.isascii() and len(value) <= 4 else 1


def _looks_like_data(grid: list[list[str]]) -> bool:
    """Return True if the first cell of each row can be a term: short, and no sentence."""
    rows = [row for row in grid if any(row)]
    if not rows or max(map(len, rows)) < 2:  # a column of text
        return False
    if len(rows) == 1:
        is_pair = len(rows[0]) == 2
        return is_pair and all(0 < len(cell.split()) <= _MAX_PAIR_WORDS and cell[-1] != "." for cell in rows[0])
    return all(len(row[0].split()) <= _MAX_TERM_WORDS and not _is_sentence(row[0]) for row in rows)


def _is_sentence(text: str) -> bool:
    return text.endswith((".", "!", "?", "\u3002")) and len(text.split()) > 3  # "Fig. 3." is none
