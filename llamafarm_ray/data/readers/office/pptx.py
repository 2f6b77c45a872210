"""PowerPoint slides (PPTX), by python-pptx: titles as headings, texts, tables and the speaker's notes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pptx
from lxml.etree import LxmlError
from pptx.enum.shapes import PP_PLACEHOLDER
from pptx.exc import PythonPptxError

from llamafarm_ray.data.readers.base import Outline, Reader
from llamafarm_ray.data.readers.office.tables import rows_as_lines
from llamafarm_ray.data.readers.package import Package

__all__ = ["PptxReader"]

_FURNITURE = frozenset({PP_PLACEHOLDER.DATE, PP_PLACEHOLDER.FOOTER, PP_PLACEHOLDER.SLIDE_NUMBER, PP_PLACEHOLDER.HEADER})
# python-pptx looks parts and elements up as they should be there; in a damaged file they are not.
_DAMAGE = (PythonPptxError, LxmlError, LookupError, ValueError, AttributeError, TypeError, AssertionError, OSError)


class PptxReader(Reader):
    """``.pptx`` files. Hidden slides, comments, charts and text in pictures are not read."""

    name = "PPTX"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the title is the document's property, else the first slide's."""
        with Package(data, self.name) as package:
            try:
                presentation = pptx.Presentation(io.BytesIO(data))
                for number, slide in enumerate(presentation.slides, start=1):
                    if slide.element.get("show") not in {"0", "false"}:
                        outline.page(number)
                        _add_slide(slide, outline)
                title = str(presentation.core_properties.title or "")
            except _DAMAGE as error:
                raise package.broken(error) from error
        return "" if title == "PowerPoint Presentation" else title


def _add_slide(slide: Any, outline: Outline) -> None:
    title = slide.shapes.title
    outline.heading(1, title.text_frame.text if title is not None else "")
    for shape in _shapes(slide.shapes):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if shape.is_placeholder and shape.placeholder_format.type in _FURNITURE:
            continue
        if getattr(shape, "has_table", False):
            for cell in (cell for row in shape.table.rows for cell in row.cells):
                for paragraph in cell.text_frame.paragraphs:
                    _add_links(paragraph, outline)
            outline.table(rows_as_lines([[cell.text for cell in row.cells] for row in shape.table.rows]))
        elif shape.has_text_frame:
            outline.link(_shape_target(shape))
            _add_text(shape.text_frame, outline)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        _add_text(slide.notes_slide.notes_text_frame, outline)


def _add_text(frame: Any, outline: Outline) -> None:
    for paragraph in frame.paragraphs:
        _add_links(paragraph, outline)
        outline.block(paragraph.text)


def _add_links(paragraph: Any, outline: Outline) -> None:
    """Add the links of a paragraph's runs to the block that comes next."""
    for run in paragraph.runs:
        outline.link(run.hyperlink.address or "")


def _shape_target(shape: Any) -> str:
    """Return the address to which a click on a shape leads; "" if it leads to none."""
    return str(shape.click_action.hyperlink.address or "") if shape.element.xpath(".//p:cNvPr/a:hlinkClick") else ""


def _shapes(shapes: Any) -> Iterator[Any]:
    """Yield shapes in their order, those in groups too."""
    stack = list(reversed(list(shapes)))
    while stack:
        shape = stack.pop()
        if hasattr(shape, "shapes"):
            stack.extend(reversed(list(shape.shapes)))
        else:
            yield shape
