"""PDF, by pypdfium2 (PDFium): text in reading order, wrapped lines joined, running heads and page numbers dropped."""

from __future__ import annotations

import ctypes
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pypdfium2
import pypdfium2.raw as pdfium_c

from llamafarm_ray.data.readers.base import (
    BrokenDocumentError,
    EmptyDocumentError,
    EncryptedDocumentError,
    Outline,
    OversizedDocumentError,
    Reader,
    list_item,
)

__all__ = ["PdfReader"]

_MAX_PAGES = 5_000
_PAGE_NUMBER = re.compile(r"[-\u2013\s]*(?:page\s+)?\d{1,4}(?:\s*(?:/|of)\s*\d{1,4})?[-\u2013\s]*", re.IGNORECASE)
_DIVISION = re.compile("[\x02\ufffe](?=[^\\W\\d_])")
_ENTRY = re.compile(r"[A-Z][^.!?:]{1,40}: \S")
_MIN_RUNNING_PAGES = 3
_RUNNING_SHARE = 0.6
_HEADING_SCALE = 1.15
_MAX_HEADING_WORDS = 14


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of text as it stands on the page; ``size`` is its font size in points, 0.0 if unknown."""

    text: str
    size: float


class PdfReader(Reader):
    """``.pdf`` files. A larger font marks a heading; scans have no text and are reported."""

    name = "PDF"
    extensions = (".pdf",)

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the line in the largest font is the title, else the document's property."""
        try:
            with pypdfium2.PdfDocument(data) as document:
                property_title = str(document.get_metadata_dict(skip_empty=True).get("Title", ""))
                if len(document) > _MAX_PAGES:
                    raise OversizedDocumentError(f"it has {len(document)} pages; {_MAX_PAGES} are the limit.")
                pages = [_lines(document, index) for index in range(len(document))]
        except pypdfium2.PdfiumError as error:
            if pypdfium2.raw.FPDF_GetLastError() == pdfium_c.FPDF_ERR_PASSWORD or "password" in str(error).lower():
                raise EncryptedDocumentError("it is encrypted.", hint="Save it without a password.") from error
            raise BrokenDocumentError(f"it is not a valid PDF file ({error}).") from error
        lines = [line for page in _without_running_lines(pages) for line in page]
        if not lines:
            raise EmptyDocumentError("there is no text in it.", hint="A scan needs text recognition (OCR) first.")
        return _outline(lines, outline) or property_title


def _lines(document: pypdfium2.PdfDocument, index: int) -> list[_Line]:
    page = document[index]
    textpage = page.get_textpage()
    try:
        text = textpage.get_text_range() if textpage.count_chars() else ""
        lines, offset = [], 0
        for raw in text.splitlines(keepends=True):
            # PDFium marks the hyphen of a divided word, and often joins the two lines there.
            line = _DIVISION.sub("", raw.rstrip("\r\n")).replace("\x02", "-").replace("\ufffe", "-").strip()
            if line:
                first = offset + len(raw) - len(raw.lstrip())
                size = pdfium_c.FPDFText_GetFontSize(textpage.raw, ctypes.c_int(first))
                lines.append(_Line(line, round(float(size), 1)))
            offset += len(raw)
        return lines
    finally:
        textpage.close()
        page.close()


def _without_running_lines(pages: list[list[_Line]]) -> Iterator[list[_Line]]:
    """Drop page numbers, and first and last lines that come back (digits apart) on most pages."""
    edges: Counter[str] = Counter()
    for page in pages:
        edges.update({_digits_apart(line.text) for line in (*page[:1], *page[-1:])})
    needed = max(_MIN_RUNNING_PAGES, _RUNNING_SHARE * len(pages))
    running = {text for text, count in edges.items() if count >= needed}
    for page in pages:
        kept = list(page)
        while kept and (_PAGE_NUMBER.fullmatch(kept[-1].text) or _digits_apart(kept[-1].text) in running):
            kept.pop()
        while kept and (_PAGE_NUMBER.fullmatch(kept[0].text) or _digits_apart(kept[0].text) in running):
            kept.pop(0)
        yield kept


def _digits_apart(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def _outline(lines: list[_Line], outline: Outline) -> str:
    """Put ``lines`` into ``outline``; returns the first line in the largest font if that is larger than the text's."""
    body = _body_size(lines)
    sizes = sorted({line.size for line in lines if line.size > body * _HEADING_SCALE}, reverse=True) if body else []
    width = max(len(line.text) for line in lines)
    paragraph, title, heading = "", "", ("", 0.0)
    previous: _Line | None = None
    number = 0
    for line in lines:
        if line.size in sizes and len(line.text.split()) <= _MAX_HEADING_WORDS:
            outline.block(paragraph)
            # A heading may wrap as well: lines of one size in a row are one heading.
            joined = f"{heading[0]} {line.text}".strip() if heading[1] == line.size else line.text
            if heading[0] and heading[1] != line.size:
                outline.heading(sizes.index(heading[1]) + 1, heading[0])
            paragraph, heading, previous = "", (joined, line.size), None
            continue
        if heading[0]:
            title = title or (heading[0] if heading[1] == sizes[0] else "")
            outline.heading(sizes.index(heading[1]) + 1, heading[0])
            heading = ("", 0.0)
        item = list_item(line.text, number)
        if item is None and previous is not None and _continues(previous.text, line.text, width):
            paragraph = _join(paragraph, line.text)
        else:
            outline.block(paragraph)
            paragraph, number = item or (line.text, number)
        previous = line
    outline.block(paragraph)
    return title


def _body_size(lines: list[_Line]) -> float:
    """The font size most characters have."""
    sizes = [line.size for line in lines for _ in range(max(1, len(line.text) // 8)) if line.size > 0]
    return statistics.median_low(sizes) if sizes else 0.0


def _continues(previous: str, line: str, width: int) -> bool:
    """Whether ``line`` goes on with the paragraph of ``previous``; ``width`` is the longest line's, in characters."""
    if _ENTRY.match(line):
        return False
    if line[:1].islower() or previous.endswith(("-", ",")):
        return True
    # A full line wraps even at the end of a sentence; a short one ends its paragraph.
    return len(previous) >= 0.7 * width


def _join(paragraph: str, line: str) -> str:
    """Append a wrapped line; a word divided at the line's end becomes whole."""
    if re.search(r"[a-z\u00df-\u00ff]-$", paragraph) and line[:1].islower():
        return paragraph[:-1] + line
    return f"{paragraph} {line}"
