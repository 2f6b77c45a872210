"""Readers turn the bytes of a file into a :class:`~llamafarm_ray.data.rows.ParsedDocument`.

To add a format, write a :class:`Reader` in a module of this package and give it a row in ``FORMATS``. A reader's
module, and with it the parser that it needs, is imported when the first file of its format is met.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
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

__all__ = [
    "FORMATS",
    "MAX_DOCUMENT_BYTES",
    "SUPPORTED_EXTENSIONS",
    "BrokenDocumentError",
    "DocumentError",
    "EmptyDocumentError",
    "EncryptedDocumentError",
    "Format",
    "OversizedDocumentError",
    "Reader",
    "reader_for",
]


@dataclass(frozen=True, slots=True)
class Format:
    """A row of the table of formats.

    Args:
        reader: module (below this package) and class of the reader, ``module:Class``.
        extensions: of its files, in lower case, with the dot.
    """

    reader: str
    extensions: tuple[str, ...]

    def load(self) -> Reader:
        """Import the reader and return the one instance of it that this process has."""
        return _load(self.reader)


FORMATS: tuple[Format, ...] = (
    Format("markdown:MarkdownReader", (".md", ".markdown")),
    Format("text:TextReader", (".txt",)),
    Format("html:HtmlReader", (".html", ".htm")),
    Format("pdf:PdfReader", (".pdf",)),
    Format("docx:DocxReader", (".docx",)),
)

_BY_EXTENSION = {extension: row for row in FORMATS for extension in row.extensions}

SUPPORTED_EXTENSIONS = tuple(sorted(_BY_EXTENSION))


@functools.cache
def _load(name: str) -> Reader:
    module, _, reader = name.partition(":")
    loaded: Reader = getattr(importlib.import_module(f"{__name__}.{module}"), reader)()
    return loaded


def reader_for(path: PurePath | str) -> Reader | None:
    """Return the reader of a file, chosen by its extension in any case; None if no reader takes it."""
    row = _BY_EXTENSION.get(PurePath(path).suffix.lower())
    return row.load() if row else None
