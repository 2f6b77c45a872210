"""EPUB: the chapters of a book in the order of its spine, each a page of XHTML."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote

from llamafarm_ray.data.readers.base import EncryptedDocumentError, Outline, Reader
from llamafarm_ray.data.readers.package import Package
from llamafarm_ray.data.readers.web.decode import decode_page, parse_page
from llamafarm_ray.data.readers.web.html import read_page

if TYPE_CHECKING:
    from lxml.etree import _Element

__all__ = ["EpubReader"]

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PAGES = frozenset({"application/xhtml+xml", "text/html"})


class EpubReader(Reader):
    """``.epub`` files. The table of contents is left out; a book with copy protection is encrypted."""

    name = "EPUB"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the title is the book's ``dc:title``."""
        with Package(data, self.name) as package:
            title, chapters = _contents(package)
            _refuse_protected(package, chapters)
            for chapter in chapters:
                read_page(parse_page(decode_page(package.read(chapter), outline)), outline)
        return title


def _contents(package: Package) -> tuple[str, list[str]]:
    """Return the title of the book and the names of its chapters, in order."""
    container = package.xml(_CONTAINER)
    opf_name = next((root.get("full-path", "") for root in container.iter("{*}rootfile")), "")
    opf = package.xml(opf_name)
    title = next(("".join(element.itertext()) for element in opf.iter("{*}title")), "")
    items = {item.get("id"): item for item in opf.iter("{*}item")}
    folder = posixpath.dirname(opf_name)
    chapters = []
    for reference in opf.iter("{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is not None and item.get("media-type") in _PAGES and "nav" not in item.get("properties", "").split():
            chapters.append(_resolve(folder, item.get("href", "")))
    if not chapters:
        raise package.broken("its spine names no chapter")
    contents = set(_contents_pages(opf, folder))
    return title, [chapter for chapter in dict.fromkeys(chapters) if chapter not in contents] or chapters


def _contents_pages(opf: _Element, folder: str) -> Iterator[str]:
    """Yield the pages that the guide of an EPUB 2 calls cover or table of contents."""
    for reference in opf.iter("{*}reference"):
        if reference.get("type") in {"toc", "cover"}:
            yield _resolve(folder, reference.get("href", ""))


def _resolve(folder: str, href: str) -> str:
    return posixpath.normpath(posixpath.join(folder, unquote(href.partition("#")[0])))


def _refuse_protected(package: Package, chapters: list[str]) -> None:
    """Raise if a chapter is encrypted; fonts may be, which hides no text."""
    if _ENCRYPTION not in package.names:
        return
    encrypted = {unquote(reference.get("URI", "")) for reference in package.xml(_ENCRYPTION).iter("{*}CipherReference")}
    if encrypted.intersection(chapters):
        raise EncryptedDocumentError("it is encrypted (copy protection).", hint="Use a copy without protection.")
