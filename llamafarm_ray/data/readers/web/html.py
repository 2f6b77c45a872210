"""HTML, by lxml: the main text of the page under its headings."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from lxml import etree

from llamafarm_ray.data.readers.base import Outline, Reader
from llamafarm_ray.data.readers.web.decode import decode_page, parse_page
from llamafarm_ray.data.readers.web.elements import HEADINGS, INLINE, squeezed_text, text_of
from llamafarm_ray.data.readers.web.main_text import main_text
from llamafarm_ray.data.readers.web.tables import data_lines

if TYPE_CHECKING:
    from lxml.etree import _Element

__all__ = ["HtmlReader", "read_page"]


class HtmlReader(Reader):
    """``.html``, ``.htm`` and ``.xhtml`` files."""

    name = "HTML"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the first ``h1`` of the main text is the title, else ``<title>``."""
        return read_page(parse_page(decode_page(data, outline)), outline)


def read_page(root: _Element, outline: Outline) -> str:
    """Put the main text of a page into ``outline`` and return the page's title."""
    body, dropped = main_text(root)
    _Walk(outline, dropped).walk(body)
    for heading in body.iter("h1"):
        if heading not in dropped:
            return squeezed_text(heading, dropped)
    for tag in ("title", "h1"):
        found = root.find(f".//{tag}")
        if found is not None and squeezed_text(found, ()):
            return squeezed_text(found, ())
    return ""


class _Walk:
    """Gathers inline text until a block starts or ends, then hands it on."""

    def __init__(self, outline: Outline, dropped: Container[_Element]) -> None:
        self._outline = outline
        self._dropped = dropped
        self._text: list[str] = []
        self._terms: list[str] = []  # of a definition whose text has not begun

    def walk(self, root: _Element) -> None:
        walker = etree.iterwalk(root, events=("start", "end"))
        for event, element in walker:
            if event == "start":
                if element in self._dropped or not self._goes_into(element):
                    walker.skip_subtree()
                elif element.text:
                    self._text.append(element.text)
            else:
                if element.tag not in INLINE:
                    self._flush()
                if element.tag == "dl":
                    self._say_terms()
                if element.tail and element is not root:
                    self._text.append(element.tail)
        self._flush()

    def _goes_into(self, element: _Element) -> bool:
        """Return True if the children of ``element`` come next, False if it is done with."""
        tag = element.tag
        if tag in INLINE:
            if tag == "a":
                self._outline.link(element.get("href", ""))
            return True
        if tag == "br":
            self._text.append(" ")
            return False
        self._flush()
        if tag in HEADINGS:
            self._say_terms()
            self._outline.heading(HEADINGS[tag], squeezed_text(element, self._dropped))
        elif tag == "pre":
            self._say_terms()
            self._outline.code(text_of(element, self._dropped))
        elif tag == "dt":
            self._terms.append(squeezed_text(element, self._dropped).rstrip(":"))
        elif tag == "table":
            lines = data_lines(element, self._dropped)
            if lines is None:
                return True
            self._say_terms()
            for link in element.iter("a"):
                self._outline.link(link.get("href", ""))
            self._outline.table(lines)
        else:
            return True
        return False

    def _flush(self) -> None:
        text = " ".join("".join(self._text).split())
        self._text = []
        if text:
            terms = ", ".join(term for term in self._terms if term)
            self._terms = []
            self._outline.block(f"{terms}: {text}" if terms else text)

    def _say_terms(self) -> None:
        """Add terms that no text follows as a block of their own."""
        self._outline.block(", ".join(term for term in self._terms if term))
        self._terms = []
