"""Links of a PDF page: the areas that lead to an address, and the lines that lie in them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pypdfium2.raw as pdfium

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

    from llamafarm_ray.data.readers.pdf.page import Line

__all__ = ["add_links"]

_MAX_LINKS = 500
_MAX_TARGET_BYTES = 4096
_TOLERANCE_POINTS = 1.0


class _Area(NamedTuple):
    """A rectangle on a page, in points from its lower left corner, and the address that it leads to."""

    left: float
    bottom: float
    right: float
    top: float
    target: str

    def holds(self, line: Line) -> bool:
        """Return True if a line's base is in it, and some of the line's width."""
        is_at_height = self.bottom - _TOLERANCE_POINTS <= line.base <= self.top
        return is_at_height and min(self.right, line.right) - max(self.left, line.left) > _TOLERANCE_POINTS


def add_links(lines: Sequence[Line], page: PdfPage) -> None:
    """Add the addresses that a page's areas lead to to the lines in them; links inside of the document are left out."""
    for area in _areas(page):
        for line in lines:
            if area.holds(line):
                line.links.append(area.target)


def _areas(page: PdfPage) -> Iterator[_Area]:
    position, link = ctypes.c_int(0), pdfium.FPDF_LINK()
    for _ in range(_MAX_LINKS):
        if not pdfium.FPDFLink_Enumerate(page.raw, position, link):
            return
        target, box = _target(page, link), pdfium.FS_RECTF()
        if target and pdfium.FPDFLink_GetAnnotRect(link, box):
            bottom, top = sorted((box.bottom, box.top))
            yield _Area(min(box.left, box.right), bottom, max(box.left, box.right), top, target)


def _target(page: PdfPage, link: object) -> str:
    """Return the address of a link; "" for one to another place in the document."""
    action = pdfium.FPDFLink_GetAction(link)
    if not action or pdfium.FPDFAction_GetType(action) != pdfium.PDFACTION_URI:
        return ""
    buffer = ctypes.create_string_buffer(_MAX_TARGET_BYTES)
    num_bytes = pdfium.FPDFAction_GetURIPath(page.pdf.raw, action, buffer, _MAX_TARGET_BYTES)
    return buffer.value.decode("utf-8", "replace") if 0 < num_bytes <= _MAX_TARGET_BYTES else ""
