"""Running lines of PDF pages: headers, footers and page numbers, told by their coming back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from llamafarm_ray.data.readers.pdf.page import Line

__all__ = ["without_running_lines"]

_EDGE_LINES = 4
_MIN_PAGES = 3
_PLACE_POINTS = 4.0
_MAX_NUMBERED_CHARS = 90
_ROMAN = "[ivxlc]{1,7}|[IVXLC]{1,7}"
_PAGE_NUMBER = re.compile(
    rf"[-\u2013\u2014|\s]*(?:(?:page|p\\.|seite|s\\.|side|sida|strona|p\u00e1gina|pagina)\s*)?"
    rf"(?:\d{{1,4}}|{_ROMAN})(?:\s*(?:/|of|von|sur|de|di|av|z)\s*\d{{1,4}})?[-\u2013\u2014|\s]*",
    re.IGNORECASE,
)
_NUMBER_AT_EDGE = re.compile(r"^(\d{1,4})\b(?![.:]\d)|\b(?<!\.)(\d{1,4})$")


def without_running_lines(pages: Sequence[Sequence[Line]]) -> Iterator[list[Line]]:
    """Yield the lines of each page without headers, footers and page numbers.

    A line near the upper or lower edge is one if, but for digits, it stands at the same place on several pages, if it
    ends or begins with the number of its page, or if it is nothing but a page number.
    """
    places: Counter[tuple[str, int]] = Counter()
    offsets: Counter[int] = Counter()
    for index, page in enumerate(pages):
        edges = _edges(page)
        places.update({key for line in edges for key in _places(line)})
        offsets.update({number - index for line in _outermost(page) for number in _numbers(line.text)})
    needed = min(_MIN_PAGES, max(2, len(pages)))
    offset, count = max(offsets.items(), key=lambda item: (item[1], -abs(item[0])), default=(0, 0))
    counted = count >= max(_MIN_PAGES, len(pages) // 2)
    for index, page in enumerate(pages):
        dropped: set[int] = set()
        for edge in (page[:_EDGE_LINES], list(reversed(page[-_EDGE_LINES:]))):
            for depth, line in enumerate(edge):
                comes_back = max((places[key] for key in _places(line)), default=0) >= needed
                numbered = (
                    depth == 0
                    and counted
                    and index + offset in _numbers(line.text)
                    and len(line.text) <= _MAX_NUMBERED_CHARS
                )
                if (
                    comes_back
                    or (_PAGE_NUMBER.fullmatch(line.text) and _is_outermost(depth, edge, dropped))
                    or numbered
                ):
                    dropped.add(id(line))
        yield [line for line in page if id(line) not in dropped]


def _edges(page: Sequence[Line]) -> list[Line]:
    return [*page[:_EDGE_LINES], *page[max(_EDGE_LINES, len(page) - _EDGE_LINES) :]]


def _outermost(page: Sequence[Line]) -> list[Line]:
    return [page[0], page[-1]] if page else []


def _is_outermost(depth: int, edge: Sequence[Line], dropped: set[int]) -> bool:
    """Return True if every line between this one and the edge is a running line."""
    return all(id(line) in dropped for line in edge[:depth])


def _places(line: Line) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return keys that lines of one text at about one height share: at least one of two is the same."""
    text = re.sub(r"\d+", "#", line.text)
    place = line.base / _PLACE_POINTS
    return (text, 2 * int(place)), (text, 2 * int(place + 0.5) + 1)


def _numbers(text: str) -> list[int]:
    return [int(number) for match in _NUMBER_AT_EDGE.finditer(text) for number in match.groups() if number]
