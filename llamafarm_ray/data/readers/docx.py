"""Word documents (DOCX), by python-docx: headings, paragraphs and tables in reading order."""

from __future__ import annotations

import io
import re
import zipfile
import zlib

import docx
from docx.document import Document
from docx.opc.exceptions import OpcError
from docx.table import Table
from docx.text.paragraph import Paragraph
from lxml.etree import LxmlError

from llamafarm_ray.data.readers.base import (
    BrokenDocumentError,
    EncryptedDocumentError,
    Outline,
    OversizedDocumentError,
    Reader,
    table_lines,
)

__all__ = ["MAX_UNPACKED_BYTES", "DocxReader"]

MAX_UNPACKED_BYTES = 256 * 1024 * 1024
"""A DOCX is a ZIP file: one that unpacks to more than this is refused before anything is unpacked."""

_MAX_MEMBERS = 10_000
_OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")  # how Office wraps a document with a password, and the old .doc
_HEADING_STYLE = re.compile(r"heading (\d)", re.IGNORECASE)
_ENCRYPTED_FLAG = 0x1
# What zipfile, lxml and python-docx raise on damaged files; the last row comes from parts that lead nowhere.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError),
    *(OpcError, LxmlError),
    *(LookupError, ValueError, AttributeError, TypeError, AssertionError),
)


class DocxReader(Reader):
    """``.docx`` files. Headers, footers, comments and text boxes are not read."""

    name = "DOCX"
    extensions = (".docx",)

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; a paragraph in style *Title* is the title, else the document's property."""
        _check_archive(data)
        try:
            document = docx.Document(io.BytesIO(data))
            return _walk(document, outline)
        except _DAMAGE as error:
            raise BrokenDocumentError(f"it is not a valid DOCX file ({type(error).__name__}: {error}).") from error


def _check_archive(data: bytes) -> None:
    if data.startswith(_OLE_MAGIC):
        raise EncryptedDocumentError(
            "it is encrypted, or an old .doc file.", hint="Save it as DOCX without a password."
        )
    try:
        members = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise BrokenDocumentError(f"it is not a valid DOCX file ({error}).") from error
    if any(member.flag_bits & _ENCRYPTED_FLAG for member in members):
        raise EncryptedDocumentError("it is encrypted.", hint="Save it without a password.")
    # zipfile gives no more of a member than its declared size (and unpacks at most 1 GiB to do so, if that is a lie).
    unpacked_bytes = sum(member.file_size for member in members)
    if len(members) > _MAX_MEMBERS or unpacked_bytes > MAX_UNPACKED_BYTES:
        raise OversizedDocumentError(
            f"it unpacks to {len(members)} parts of {unpacked_bytes} bytes; "
            f"{_MAX_MEMBERS} parts and {MAX_UNPACKED_BYTES} bytes are the limit."
        )


def _walk(document: Document, outline: Outline) -> str:
    title = ""
    for item in document.iter_inner_content():
        if isinstance(item, Table):
            # Merged cells show up once for each column they span; one of them is enough.
            rows = [_distinct([cell.text for cell in row.cells]) for row in item.rows]
            for line in table_lines(rows, header=len(rows) > 1 and _is_header(rows)):
                outline.block(line)
            continue
        style = _style_name(item)
        level = _HEADING_STYLE.fullmatch(style)
        if style == "Title" and not title:
            title = item.text
        elif level:
            outline.heading(int(level[1]), item.text)
        else:
            for line in item.text.split("\n"):
                outline.block(line)
    return title or str(document.core_properties.title or "")


def _style_name(paragraph: Paragraph) -> str:
    style = paragraph.style
    return str(style.name or "") if style is not None else ""


def _distinct(cells: list[str]) -> list[str]:
    return [cell for index, cell in enumerate(cells) if index == 0 or cell != cells[index - 1]]


def _is_header(rows: list[list[str]]) -> bool:
    """DOCX seldom marks header rows: a first row of short texts without digits, before rows as wide, is taken as one.

    With two columns it is only one if it has no ``term: value`` look: values elsewhere in the column have digits.
    """
    first, rest = rows[0], rows[1:]
    short = all(cell and len(cell.split()) <= 4 and not any(c.isdigit() for c in cell) for cell in first)  # noqa: PLR2004
    widths = all(len(row) == len(first) for row in rest)
    if len(first) == 2:  # noqa: PLR2004  term and definition
        return short and widths and all(any(c.isdigit() for c in row[1]) for row in rest)
    return short and widths
