"""Readers: one file per document format, each turning bytes into a :class:`~llamafarm_ray.data.rows.ParsedDocument`."""

from __future__ import annotations

from pathlib import PurePath

from llamafarm_ray.data.readers.base import (
    MAX_DOCUMENT_BYTES,
    BrokenDocumentError,
    DocumentError,
    EmptyDocumentError,
    EncryptedDocumentError,
    OversizedDocumentError,
    Reader,
)
from llamafarm_ray.data.readers.docx import DocxReader
from llamafarm_ray.data.readers.html import HtmlReader
from llamafarm_ray.data.readers.markdown import MarkdownReader
from llamafarm_ray.data.readers.pdf import PdfReader
from llamafarm_ray.data.readers.text import TextReader

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "READERS",
    "SUPPORTED_EXTENSIONS",
    "BrokenDocumentError",
    "DocumentError",
    "DocxReader",
    "EmptyDocumentError",
    "EncryptedDocumentError",
    "HtmlReader",
    "MarkdownReader",
    "OversizedDocumentError",
    "PdfReader",
    "Reader",
    "TextReader",
    "reader_for",
]

READERS: tuple[Reader, ...] = (MarkdownReader(), TextReader(), HtmlReader(), PdfReader(), DocxReader())

_BY_EXTENSION = {extension: reader for reader in READERS for extension in reader.extensions}

SUPPORTED_EXTENSIONS = tuple(sorted(_BY_EXTENSION))


def reader_for(path: PurePath | str) -> Reader | None:
    """The reader of a file, chosen by its extension in any case; None if no reader takes it."""
    return _BY_EXTENSION.get(PurePath(path).suffix.lower())
