"""XML, by lxml: titles as headings, text by element, records of simple elements on one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxml import etree

from llamafarm_ray.data.readers.base import BrokenDocumentError, Outline, Reader
from llamafarm_ray.data.readers.records.record import record_line

if TYPE_CHECKING:
    from lxml.etree import _Element

__all__ = ["XmlReader"]

_TITLES = {"title", "head", "heading"}
_MIN_FIELDS = 2


class XmlReader(Reader):
    """``.xml`` files. Entities are not expanded and nothing is loaded."""

    name = "XML"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the first title is the document's."""
        parser = etree.XMLParser(
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
        try:
            root = etree.fromstring(data, parser)
        except (etree.XMLSyntaxError, ValueError) as error:
            raise BrokenDocumentError(f"it is not valid XML ({error}).") from error
        _walk(root, outline, 0)
        return outline.first_heading


def _walk(element: _Element, outline: Outline, level: int) -> None:
    children = [child for child in element if isinstance(child.tag, str)]
    title = next((child for child in children if _name(child) in _TITLES and not len(child)), None)
    if title is not None:
        level += 1
        outline.heading(level, _text(title))
    if _has_own_text(element):
        outline.block(_text(element))
        return
    fields = [child for child in children if child is not title]
    if len(fields) >= _MIN_FIELDS and all(not len(child) for child in fields) and len({*map(_name, fields)}) > 1:
        outline.block("; ".join(record_line({_name(child): _text(child)}) for child in fields if _text(child)))
        return
    for child in fields:
        _walk(child, outline, level)


def _has_own_text(element: _Element) -> bool:
    return bool((element.text or "").strip() or any((child.tail or "").strip() for child in element))


def _name(element: _Element) -> str:
    return str(etree.QName(element).localname).lower()


def _text(element: _Element) -> str:
    return " ".join("".join(element.itertext()).split())
