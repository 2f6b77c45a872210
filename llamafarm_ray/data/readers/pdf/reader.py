"""PDF, by pypdfium2 (PDFium): text in reading order under headings, without running lines."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pypdfium2
import pypdfium2.raw as pdfium

from llamafarm_ray.data.readers.base import (
    BrokenDocumentError,
    EmptyDocumentError,
    EncryptedDocumentError,
    Outline,
    OversizedDocumentError,
    Reader,
)
from llamafarm_ray.data.readers.pdf.links import add_links
from llamafarm_ray.data.readers.pdf.page import Line, lines_of
from llamafarm_ray.data.readers.pdf.paragraphs import CONTENTS, Paragraphs, body_size
from llamafarm_ray.data.readers.pdf.recognition import recognized_lines
from llamafarm_ray.data.readers.pdf.running import without_running_lines
from llamafarm_ray.data.text import num_words

__all__ = ["PdfReader"]

_MAX_PAGES = 5_000
_MAX_CHARS = 20_000_000
_SCANNED_SHARE = 0.5
_STAMP_WORDS = 12
_EDGE_SHARE = 0.1
_NO_TITLE = re.compile(
    r"(?:untitled|unknown|title|document\d*|slide \d+|microsoft \w+ - .*|"
    r".*\.(?:docx?|odt|tex|dvi|indd|rtf|pptx?|pdf|qxd|fm|xml))",
    re.IGNORECASE,
)
_FRONT = re.compile(r"index|preface|foreword|vorwort|pr\u00e9face", re.IGNORECASE)


class PdfReader(Reader):
    """``.pdf`` files. A larger font marks a heading; scans have no text and are reported."""

    name = "PDF"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the title is the document's property, else the largest line of the first page."""
        try:
            with pypdfium2.PdfDocument(data) as document:
                told = " ".join(str(document.get_metadata_dict(skip_empty=True).get("Title", "")).split())
                pages, num_scanned, num_recognized = _read_pages(document)
        except pypdfium2.PdfiumError as error:
            if pdfium.FPDF_GetLastError() == pdfium.FPDF_ERR_PASSWORD or "password" in str(error).lower():
                raise EncryptedDocumentError("it is encrypted.", hint="Save it without a password.") from error
            raise BrokenDocumentError(f"it is not a valid PDF file ({error}).") from error
        kept = list(without_running_lines(pages))
        _require_text(pages, kept, num_scanned)
        if num_recognized:
            outline.note(f"{num_recognized} of {len(pages)} pages are scans, whose text was recognized.")
        if num_scanned:
            outline.note(f"{num_scanned} of {len(pages)} pages are scans without text.")
        Paragraphs(kept, outline).add_all()
        return told if _is_title(told) else _largest(kept)


def _read_pages(document: pypdfium2.PdfDocument) -> tuple[list[list[Line]], int, int]:
    """Return the lines of each page, and how many pages are scans without text, and scans that were recognized."""
    if len(document) > _MAX_PAGES:
        raise OversizedDocumentError(f"it has {len(document)} pages; {_MAX_PAGES} are the limit.")
    pages: list[list[Line]] = []
    num_scanned = num_recognized = num_chars = 0
    for page in document:
        textpage = page.get_textpage()
        try:
            num_chars += textpage.count_chars()
            if num_chars > _MAX_CHARS:
                raise OversizedDocumentError(f"it has more than {_MAX_CHARS} characters.")
            pages.append(lines_of(textpage))
            add_links(pages[-1], page)
            if _is_stamp(pages[-1], page.get_height()) and _is_scan(page):
                pages[-1] = recognized_lines(page)
                num_recognized += bool(pages[-1])
                num_scanned += not pages[-1]
        finally:
            textpage.close()
            page.close()
    return pages, num_scanned, num_recognized


def _is_stamp(lines: Sequence[Line], height: float) -> bool:
    """Return True for no text, and for what scanners and archives print on a page's edge: its number, their name."""
    edge = _EDGE_SHARE * height
    at_edge = all(line.base < edge or line.base > height - edge for line in lines)
    return at_edge and sum(num_words(line.text) for line in lines) <= _STAMP_WORDS


def _is_scan(page: pypdfium2.PdfPage) -> bool:
    """Return True if an image covers most of the page."""
    width, height = page.get_size()
    for image in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=2):
        left, bottom, right, top = image.get_bounds()
        if (right - left) * (top - bottom) >= _SCANNED_SHARE * width * height:
            return True
    return False


def _require_text(pages: Sequence[Sequence[Line]], kept: Sequence[Sequence[Line]], num_scanned: int) -> None:
    if any(kept):
        return
    if any(pages):
        raise EmptyDocumentError("there is no text in it but headers, footers and page numbers.")
    if num_scanned:
        raise EmptyDocumentError(
            f"{num_scanned} of its {len(pages)} pages are scans without text.",
            hint="Set dataset.source.ocr to recognize them.",
        )
    raise EmptyDocumentError(
        "there is no text in it.", hint="If its pages are drawings, run text recognition (OCR) first."
    )


def _is_title(text: str) -> bool:
    no_title = any(pattern.fullmatch(text) for pattern in (_NO_TITLE, CONTENTS, _FRONT))
    return len(text) > 2 and any(map(str.isalpha, text)) and not no_title


def _largest(pages: Sequence[Sequence[Line]]) -> str:
    """Return the largest text of the first page that has text, if it is larger than the body's and no "Contents"."""
    body = body_size([line for page in pages for line in page])
    first = next(page for page in pages if page)
    large = [line for line in first if line.size > body and _is_title(line.text)]
    if not large:
        return ""
    size = max(line.size for line in large)
    start = next(index for index, line in enumerate(first) if line.size == size and line in large)
    words = []
    for line in first[start:]:
        if line.size != size:
            break
        words.append(line.text)
    return " ".join(words)
