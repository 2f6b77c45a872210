"""Tables of documents that don't mark their header row."""

from __future__ import annotations

from collections.abc import Sequence

from llamafarm_ray.data.readers.base import table_lines

__all__ = ["rows_as_lines"]

_MAX_NAME_WORDS = 4
_PAIR = 2


def rows_as_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines, see :func:`table_lines`; a first row that looks like names of columns is the header."""
    filled = [[" ".join(cell.split()) for cell in row] for row in rows if any(cell.strip() for cell in row)]
    return table_lines(filled, header=len(filled) > 1 and _is_header(filled))


def _is_header(rows: list[list[str]]) -> bool:
    """Return True if the first row has short texts without digits, before rows as wide.

    With two columns it is only one if it has no ``term: value`` look: values elsewhere in the column have digits.
    """
    first, rest = rows[0], rows[1:]
    short = all(cell and len(cell.split()) <= _MAX_NAME_WORDS and not any(map(str.isdigit, cell)) for cell in first)
    widths = all(len(row) == len(first) for row in rest)
    if len(first) == _PAIR:
        return short and widths and all(any(c.isdigit() for c in row[1]) for row in rest)
    return short and widths
