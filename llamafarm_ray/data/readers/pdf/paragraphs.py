"""Lines of a PDF to headings, paragraphs, list items and table rows."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from llamafarm_ray.data.readers.base import Outline, list_item
from llamafarm_ray.data.readers.office.tables import rows_as_lines
from llamafarm_ray.data.readers.pdf.page import DIVIDED, Line

__all__ = ["CONTENTS", "Paragraphs", "body_size"]

_HEADING_SCALE = 1.15
_MAX_HEADING_WORDS = 14
_WIDE_LEADING = 1.35
_INDENT = 0.9
_ALIGNED_POINTS = 4.0
_ENTRY = re.compile(r"[A-Z][^.!?:]{1,40}: \S")
_LEADERS = re.compile(r"(?:\. ?){4,}\s*\S{0,6}$|\u2026{2,}")
_NUMBER_AT_END = re.compile(r"\s(?:\d{1,4}|[ivxlc]{1,6})$")
CONTENTS = re.compile(
    r"(?:table of )?contents?|inhalt(?:sverzeichnis)?|sommaire|table des mati\u00e8res|\u00edndice|indice|"
    r"sum\u00e1rio|\u76ee\u5f55|\u76ee\u6b21",
    re.IGNORECASE,
)
_HYPHENS = ("-", "\u2010", DIVIDED)
_SENTENCE_END = re.compile(r"[.!?:;\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*$")
_OPEN_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been by but for from had has have if in into is its no nor not of on or our over per "
        "than that the their then these this those to under was were when which who will with within without your "
        "der die das den dem des und oder mit von zu im ein eine le la les de des du et un une el los y en una",
    )
)
_MIN_PROSE_WORDS = 5
_MAX_COMPARED = 500  # lines of a page, for its typical width; a dense page has 100


class Paragraphs:
    """Puts the lines of a document, page by page, into an outline.

    Args:
        pages: the lines of each page, in reading order, without running lines.
        outline: receives headings and blocks.
    """

    def __init__(self, pages: Sequence[Sequence[Line]], outline: Outline) -> None:
        self._pages = pages
        self._outline = outline
        lines = [line for page in pages for line in page]
        self._body = body_size(lines)
        self._sizes = sorted({line.size for line in lines if self._is_large(line)}, reverse=True)
        self._words = Counter(word for line in lines for word in re.findall(r"[\w-]+", line.text.lower()))
        self._text, self._page = "", 1  # the paragraph that is open, and the page on which it began
        self._lines: list[Line] = []  # of the paragraph
        self._heading: list[Line] = []
        self._number = 0
        self._in_contents = False  # below a heading "Contents"

    def add_all(self) -> None:
        """Put everything into the outline."""
        previous: Line | None = None
        for number, lines in enumerate(self._pages, start=1):
            page = [line for line in lines if not _LEADERS.search(line.text)]
            shape = _Shape(page, self._body)
            new_page = True
            for item in _with_tables(page):
                if isinstance(item, list):
                    self._end_all(number)
                    self._add_links(item)
                    rows = [[cell.text.replace(DIVIDED, "-") for cell in row.cells] for row in item]
                    self._outline.table(rows_as_lines(rows))
                    previous = None
                elif self._is_large(item) and len(item.text.split()) <= _MAX_HEADING_WORDS:
                    self._end_paragraph()
                    if self._heading and self._heading[-1].size != item.size:
                        self._end_heading()
                    self._page = number if not self._heading else self._page
                    self._heading.append(item)
                    previous = None
                else:
                    self._end_heading()
                    if self._in_contents and _NUMBER_AT_END.search(item.text):
                        continue
                    self._add(item, previous, shape, number, new_page=new_page)
                    previous, new_page = item, False
        self._end_all(len(self._pages))

    def _add(self, line: Line, previous: Line | None, shape: _Shape, number: int, *, new_page: bool) -> None:
        item = list_item(line.text, self._number)
        if item is None and previous is not None and shape.goes_on(previous, line, new_page=new_page):
            self._text = self._join(self._text, line.text)
            self._lines.append(line)
            return
        self._end_paragraph()
        self._page, self._lines = number, [line]
        self._text, self._number = item or (line.text, self._number)

    def _end_all(self, number: int) -> None:
        self._end_paragraph()
        self._end_heading()
        self._outline.page(number)

    def _end_paragraph(self) -> None:
        if self._text:
            self._outline.page(self._page)
            self._add_links(self._lines)
            self._outline.block(self._text.replace(DIVIDED, "-"))
        self._text, self._lines = "", []

    def _add_links(self, lines: Sequence[Line]) -> None:
        """Add the links of lines to the block that comes next."""
        for target in (target for line in lines for target in line.links):
            self._outline.link(target)

    def _end_heading(self) -> None:
        if self._heading:
            self._outline.page(self._page)
            text = ""
            for line in self._heading:
                text = self._join(text, line.text) if text else line.text
            self._add_links(self._heading)
            self._in_contents = CONTENTS.fullmatch(text) is not None
            self._outline.heading(self._sizes.index(self._heading[0].size) + 1, text.replace(DIVIDED, "-"))
        self._heading = []

    def _is_large(self, line: Line) -> bool:
        return bool(self._body) and line.size > self._body * _HEADING_SCALE and any(map(str.isalpha, line.text))

    def _join(self, text: str, line: str) -> str:
        """Append a wrapped line; a word divided at the line's end becomes whole.

        A hyphen stays where the document writes the word with it elsewhere, and before a capital or a digit.
        """
        if not text.endswith(_HYPHENS) or not line[:1].isalnum() or not text[-2:-1].isalnum():
            return f"{text} {line}"
        begin = re.split(r"[^\w-]", text[:-1])[-1]
        end = re.split(r"[^\w-]", line)[0].rstrip(DIVIDED)
        whole, hyphened = f"{begin}{end}".lower(), f"{begin}-{end}".lower()
        keeps = self._words[hyphened] > self._words[whole] or not line[0].islower() or "-" in begin
        return f"{text[:-1]}{'-' if keeps else ''}{line}"


class _Shape:
    """Typical line width and line spacing of one page."""

    def __init__(self, page: Sequence[Line], body: float) -> None:
        text = [line for line in page if line.size <= body * _HEADING_SCALE]
        gaps = [round(a.base - b.base, 1) for a, b in itertools.pairwise(text) if a.base - b.base > 0]
        # The closest frequent spacing is that of lines in a paragraph.
        self._leading = min((gap for gap, count in Counter(gaps).items() if count >= len(gaps) / 5), default=0.0)
        self._text = text[:_MAX_COMPARED]

    def goes_on(self, previous: Line, line: Line, *, new_page: bool) -> bool:
        """Return True if ``line`` goes on with the paragraph of ``previous``."""
        if _ENTRY.match(line.text):
            return False
        ended = _SENTENCE_END.search(previous.text) is not None
        runs_on = line.text[:1].islower() or _is_open(previous.text)
        if new_page or line.base > previous.base:  # the top of a page, or of a column
            return runs_on and not ended
        if self._leading and previous.base - line.base > _WIDE_LEADING * self._leading:
            return previous.text.endswith(_HYPHENS) and line.text[:1].islower()
        had_room = self._had_room(previous, line)
        if runs_on:
            return not ended or not had_room
        if ended and line.left - previous.left > _INDENT * line.size:
            return False  # the first line of a paragraph is indented
        is_prose = len(previous.text.split()) >= _MIN_PROSE_WORDS and _SENTENCE_END.search(line.text) is not None
        return not had_room or (is_prose and not ended)

    def _had_room(self, previous: Line, line: Line) -> bool:
        """Return True if the first word of ``line`` would have fitted behind ``previous``: the break was meant."""
        word = len(line.text.split()[0]) + 1
        width = (line.right - line.left) / max(1, len(line.text)) * word
        return previous.right + width <= self._right_of(previous)

    def _right_of(self, line: Line) -> float:
        """Return where most lines in the column of ``line`` end."""
        rights = [other.right for other in self._text if other.left < line.right and other.right > line.left]
        if not rights:
            return line.right
        middle = statistics.median(rights)
        return statistics.median([right for right in rights if right >= middle])


def _is_open(text: str) -> bool:
    """Return True for a line that can't be the last one of a paragraph."""
    return text.endswith((*_HYPHENS, ",", "(")) or re.split(r"\W+", text)[-1].lower() in _OPEN_WORDS


def body_size(lines: Sequence[Line]) -> float:
    """Return the font size of most characters, 0.0 for no lines."""
    sizes = [line.size for line in lines for _ in range(max(1, len(line.text) // 8))]
    return statistics.median_low(sizes) if sizes else 0.0


def _with_tables(page: Sequence[Line]) -> Iterator[Line | list[Line]]:
    """Yield lines, and tables as lists of rows: lines in a row whose cells stand below each other."""
    table: list[Line] = []
    for line in page:
        if table and _is_below(table[-1], line):
            table.append(line)
            continue
        yield from _table_or_lines(table)
        table = [line] if line.cells else []
        if not table:
            yield line
    yield from _table_or_lines(table)


def _table_or_lines(rows: list[Line]) -> Iterator[Line | list[Line]]:
    if len(rows) > 1:
        yield rows
    else:
        yield from rows


def _is_below(row: Line, line: Line) -> bool:
    return len(row.cells) == len(line.cells) > 1 and all(
        abs(upper.left - lower.left) <= _ALIGNED_POINTS
        or abs(upper.right - lower.right) <= _ALIGNED_POINTS
        or abs(upper.left + upper.right - lower.left - lower.right) <= 2 * _ALIGNED_POINTS
        for upper, lower in zip(row.cells, line.cells, strict=True)
    )
