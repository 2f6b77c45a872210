"""Bytes of a page to a tree of elements: the declared encoding, HTML's own parser or, for XHTML, XML's."""

from __future__ import annotations

import codecs
import html.entities
import re
from typing import TYPE_CHECKING

from lxml import etree

from llamafarm_ray.data.readers.base import BrokenDocumentError, Outline, OversizedDocumentError
from llamafarm_ray.data.readers.package import parse_xml
from llamafarm_ray.data.readers.text import require_text

if TYPE_CHECKING:
    from lxml.etree import _Element

__all__ = ["decode_page", "parse_page"]

_HEAD_BYTES = 4096
_MAX_TAGS = 4_000_000  # a 22 MB page of short paragraphs has 3 million; the tree takes about 120 bytes a tag
_CHARSET = re.compile(
    rb"""<(?:meta[^>]{0,200}?charset|\?xml[^>]{0,100}?encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE
)
_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# The WHATWG's Encoding Standard: what a page means that declares the name on the left.
_MEANT = {
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "iso-8859-1": "cp1252",
    "latin-1": "cp1252",
    "latin1": "cp1252",
    "iso-8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "x-sjis": "cp932",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
}
_ENTITY = re.compile(r"&([A-Za-z][A-Za-z0-9]{1,31};)")
_XML_ENTITIES = frozenset({"amp;", "lt;", "gt;", "quot;", "apos;"})
_XHTML = re.compile(r"\s*(?:<\?xml|<!DOCTYPE html PUBLIC[^>]*XHTML|<html[^>]*xmlns)", re.IGNORECASE)


def decode_page(data: bytes, outline: Outline, charset: str = "") -> str:
    """Return the text of a page.

    Args:
        outline: takes a note if an encoding is not declared and not UTF-8.
        charset: its encoding as told from outside; by default the page's own declaration, else it is recognized.

    Raises:
        BrokenDocumentError: it is no text.
    """
    declared = _CHARSET.search(data[:_HEAD_BYTES])
    name = (charset or (declared[1].decode("ascii", "replace") if declared else "")).lower()
    if name and not data.startswith(_BOMS) and not name.startswith("utf-16"):
        try:
            text = data.decode(_MEANT.get(name, name))
        except (LookupError, UnicodeDecodeError):
            pass  # a wrong declaration
        else:
            return text.replace("\0", "")
    return require_text(data, outline)


def parse_page(text: str) -> _Element:
    """Return the root element of a page; element names have no namespace.

    Raises:
        OversizedDocumentError: it has too many tags to hold.
        BrokenDocumentError: it has no element, or is nested deeper than the parser goes.
    """
    if text.count("<") > _MAX_TAGS:
        raise OversizedDocumentError(f"it has more than {_MAX_TAGS} tags.")
    root = _parse_xhtml(text) if _XHTML.match(text[:_HEAD_BYTES]) else None
    return _parse_html(text) if root is None else root


def _parse_xhtml(text: str) -> _Element:
    """Return the root of well-formed XHTML, where ``<title/>`` is empty; None for anything else."""
    known = _ENTITY.sub(lambda match: _character(match[1]), text)
    declared = re.sub(r"^\s*<\?xml[^>]*\?>", "", known, count=1)
    try:
        root = parse_xml(declared.encode("utf-8", "replace"))
    except (etree.LxmlError, ValueError):
        return None
    for element in root.iter(etree.Element):
        element.tag = element.tag.rpartition("}")[2].lower()
    return root


def _character(entity: str) -> str:
    return f"&{entity}" if entity in _XML_ENTITIES else html.entities.html5.get(entity, f"&{entity}")


def _parse_html(text: str) -> _Element:
    # Without huge_tree the parser leaves out, silently, what is deeper than 256 elements or longer than 10 MB.
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(text.encode("utf-8", "replace"), parser)
    except (etree.LxmlError, ValueError) as error:
        raise BrokenDocumentError(f"it is not a valid HTML page ({error}).") from error
    if root is None:
        raise BrokenDocumentError("it is not a valid HTML page (it has no element).")
    if any("Excessive depth" in entry.message for entry in parser.error_log):
        raise BrokenDocumentError("its elements are nested deeper than 2,048 levels.")
    return root
