"""Lines of a PDF page with their places, in reading order."""

from __future__ import annotations

import ctypes
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import pypdfium2.raw as pdfium

if TYPE_CHECKING:
    from pypdfium2 import PdfTextPage

__all__ = ["DIVIDED", "Line", "in_reading_order", "lines_of"]

DIVIDED = "\x02"
"""Ends a line whose last word goes on in the next one; PDFium puts it in the place of the hyphen."""

_DIVISIONS = (0x02, 0xFFFE, 0xAD)
_NEW_LINE, _RETURN, _SPACE = 10, 13, 32
_CELL_GAP = 1.6  # a wider gap than this many font sizes parts cells, or columns
_SPACE_GAP = 0.15
_NOTE_MARK = re.compile(r"(?<=[^\W\d_]{3}|[^\W\d_][.,;:!?)][\"'\u201d]|[^\W\d_]{2}[.,;:!?)])(\d{1,3})(?!\d)")
_RAISED_MARK = re.compile("(?<!\\d)\\d?[\u2070\u2074-\u2079]+")  # a font's own raised digits; not those of 10\u2076
_NOTE_LABEL = re.compile(r"\d{1,3}(?=[^\W\d_])")
_MARK_SCALE = 0.8
_MIN_COLUMN_LINES = 4
_MIN_COLUMN_CHARS = 18
_ALIGNED_POINTS = 3.0
_MAX_RUNS = 2000  # a dense page has 300; columns are looked for by comparing all with all


@dataclass(slots=True)
class Line:
    """A run of text on one line.

    Args:
        text: without spaces around it.
        left, right: where it begins and ends, in points from the left.
        base: its base line, in points from the bottom.
        size: of its font, in points.
        cells: runs with wide gaps between them, if there are several on the line.
        links: addresses that parts of it lead to.
    """

    text: str
    left: float
    right: float
    base: float
    size: float
    cells: list[Line] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


def lines_of(textpage: PdfTextPage) -> list[Line]:
    """Return the lines of a page in reading order; several columns are read one after the other."""
    runs = [run for start, codes in _raw_lines(textpage) for run in _runs(textpage, start, codes)]
    return in_reading_order(runs)


def _raw_lines(textpage: PdfTextPage) -> Iterator[tuple[int, list[int]]]:
    """Yield PDFium's lines: the index of the first character, and the characters' code points."""
    start, codes = 0, list[int]()
    for index in range(textpage.count_chars()):
        code = pdfium.FPDFText_GetUnicode(textpage.raw, index)
        if code in {_NEW_LINE, _RETURN}:
            if codes:
                yield start, codes
            start, codes = index + 1, []
            continue
        codes.append(code)
        if code in _DIVISIONS:
            yield start, codes
            start, codes = index + 1, []
    if codes:
        yield start, codes


def _runs(textpage: PdfTextPage, start: int, codes: list[int]) -> Iterator[Line]:
    """Cut a line where a gap is too wide for a space."""
    begin = 0
    for index, code in enumerate(codes):
        if code == _SPACE and begin < index < len(codes) - 1 and codes[index + 1] != _SPACE:
            before, after = _box(textpage, start + index - 1), _box(textpage, start + index + 1)
            if before is None or after is None:
                continue
            size = _size(textpage, start + index - 1)
            if after[0] - before[1] > _CELL_GAP * size or after[0] < before[0]:
                yield from _run(textpage, start + begin, codes[begin:index])
                begin = index + 1
    yield from _run(textpage, start + begin, codes[begin:])


def _run(textpage: PdfTextPage, start: int, codes: list[int]) -> Iterator[Line]:
    text = _without_note_marks(textpage, start, "".join(map(_character, codes)))
    stripped = text.strip(" \t\xa0")
    if not stripped or stripped == DIVIDED:
        return
    first = start + len(text) - len(text.lstrip(" \t\xa0"))
    last = start + len(text.rstrip(" \t\xa0\x02")) - 1
    begin, end = _box(textpage, first), _box(textpage, max(first, last))
    if begin is None or end is None:
        return
    x, y = ctypes.c_double(), ctypes.c_double()
    pdfium.FPDFText_GetCharOrigin(textpage.raw, first, x, y)
    clean = stripped[:-1].replace(DIVIDED, "-") + stripped[-1]
    label = _NOTE_LABEL.match(clean)
    if label and _size(textpage, first) <= _MARK_SCALE * _size(textpage, first + label.end()):
        clean = f"{label[0]} {clean[label.end() :]}"  # the number of a note, before its text
    yield Line(clean, begin[0], max(end[1], begin[1]), y.value, _size(textpage, first))


def _character(code: int) -> str:
    if code in _DIVISIONS:
        return DIVIDED
    return chr(code) if 0 < code <= sys.maxunicode else " "


def _without_note_marks(textpage: PdfTextPage, start: int, text: str) -> str:
    """Return ``text`` with a blank in the place of each raised, smaller digit behind a word or a sentence."""
    marks: list[int] = []
    for match in _NOTE_MARK.finditer(text):
        place = match.start(1)
        if _size(textpage, start + place) <= _MARK_SCALE * _size(textpage, start + place - 1):
            marks += range(*match.span(1))
    for match in _RAISED_MARK.finditer(text):
        marks += range(*match.span())
    return "".join(" " if index in marks else character for index, character in enumerate(text)) if marks else text


def _box(textpage: PdfTextPage, index: int) -> tuple[float, float] | None:
    """Return the left and right edge of a character, None if PDFium has made it up."""
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    found = pdfium.FPDFText_GetCharBox(textpage.raw, index, left, right, bottom, top)
    return (left.value, right.value) if found and math.isfinite(left.value + right.value) else None


def _size(textpage: PdfTextPage, index: int) -> float:
    """Return the size of a character's font as it stands on the page, in points."""
    size = float(pdfium.FPDFText_GetFontSize(textpage.raw, index))
    matrix = pdfium.FS_MATRIX()
    if pdfium.FPDFText_GetMatrix(textpage.raw, index, matrix):
        size *= math.hypot(matrix.c, matrix.d) or 1.0
    return round(size, 1) if math.isfinite(size) and size > 0 else 1.0


def in_reading_order(runs: list[Line]) -> list[Line]:
    """Order runs by columns, from left to right, and within each from top to bottom."""
    gutter = _gutter(runs)
    if gutter is None:
        return _rows(runs)
    lines: list[Line] = []
    for band in _bands(runs, gutter):
        left = [run for run in band if run.right <= gutter]
        right = [run for run in band if run.left >= gutter]
        if len(left) + len(right) == len(band) and _is_prose(left) and _is_prose(right):
            lines += in_reading_order(left) + in_reading_order(right)
        else:
            lines += _rows(band)
    return lines


def _gutter(runs: list[Line]) -> float | None:
    """Return where a second column begins: a left edge of many lines, with columns of prose on both sides."""
    best, most = None, 0
    if len(runs) > _MAX_RUNS:
        return None
    lefts = sorted(run.left for run in runs)
    edges = [x for before, x in pairwise(lefts) if x - before > _ALIGNED_POINTS]
    for edge in edges:
        aligned = sum(1 for x in lefts if abs(x - edge) <= _ALIGNED_POINTS)
        if aligned < _MIN_COLUMN_LINES:
            continue
        gutter = edge - 1.0
        in_columns = sum(
            len(band)
            for band in _bands(runs, gutter)
            if _is_prose([run for run in band if run.right <= gutter])
            and _is_prose([run for run in band if run.left >= gutter])
        )
        if in_columns > most:
            best, most = gutter, in_columns
    return best


def _bands(runs: list[Line], gutter: float) -> Iterator[list[Line]]:
    """Yield runs from top to bottom in bands: those that stay on one side of the gutter, and those that cross it."""
    band: list[Line] = []
    crossing = False
    for run in sorted(runs, key=lambda run: -run.base):
        crosses = run.left < gutter < run.right
        if band and crosses != crossing:
            yield band
            band = []
        band.append(run)
        crossing = crosses
    if band:
        yield band


def _is_prose(runs: list[Line]) -> bool:
    return len(runs) >= _MIN_COLUMN_LINES and sum(len(run.text) for run in runs) >= _MIN_COLUMN_CHARS * len(runs)


def _rows(runs: list[Line]) -> list[Line]:
    """Put runs on one base line together, as cells, from top to bottom."""
    rows: list[list[Line]] = []
    for run in sorted(runs, key=lambda run: (-run.base, run.left)):
        if rows and abs(rows[-1][0].base - run.base) <= 0.35 * min(run.size, rows[-1][0].size):
            rows[-1].append(run)
        else:
            rows.append([run])
    return [_joined(sorted(row, key=lambda run: run.left)) for row in rows]


def _joined(cells: list[Line]) -> Line:
    if len(cells) == 1:
        return cells[0]
    size = max(cells, key=lambda cell: len(cell.text)).size
    parts = [cells[0]]
    for cell in cells[1:]:
        before = parts[-1]
        gap = cell.left - before.right
        if gap > _CELL_GAP * cell.size:
            parts.append(cell)
        else:
            # PDFium begins a new run at some changes of font: without a gap it is the same word.
            text = f"{before.text}{'' if gap < _SPACE_GAP * cell.size else ' '}{cell.text}"
            parts[-1] = Line(text, before.left, cell.right, before.base, before.size)
    text = " ".join(part.text for part in parts)
    wide = parts if len(parts) > 1 else []
    return Line(text, cells[0].left, max(cell.right for cell in cells), cells[0].base, size, wide)
