"""Readers turn the bytes of a file into a :class:`~llamafarm_ray.data.parsed.ParsedDocument`.

To add a format, write a :class:`Reader` in a module of this package and give it a row in ``FORMATS``. A reader's
module, and with it the parser that it needs, is imported when the first file of its format is met.
"""

from __future__ import annotations

import functools
import importlib
import re
from dataclasses import dataclass
from pathlib import PurePath

from llamafarm_ray.data.readers.base import (
    MAX_DOCUMENT_BYTES,
    MAX_TEXT_BYTES,
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
    "MAX_TEXT_BYTES",
    "SUPPORTED_EXTENSIONS",
    "BrokenDocumentError",
    "DocumentError",
    "EmptyDocumentError",
    "EncryptedDocumentError",
    "Format",
    "OversizedDocumentError",
    "Reader",
    "is_supported",
    "max_bytes_of",
    "reader_for",
]


@dataclass(frozen=True, slots=True)
class Format:
    """A row of the table of formats.

    Args:
        reader: module (below this package) and class of the reader, ``module:Class``.
        extensions: of its files, in lower case, with the dot.
        max_bytes: size of the largest file that is read, the reader's own.
    """

    reader: str
    extensions: tuple[str, ...]
    max_bytes: int = MAX_DOCUMENT_BYTES

    def load(self) -> Reader:
        """Import the reader and return the one instance of it that this process has."""
        return _load(self.reader)


SOURCE_CODE = tuple(
    f".{name}"
    for name in re.findall(
        r"\w+",
        "bash bat c cc clj cpp cs cxx dart el erl ex exs f90 go gradle graphql groovy h hh hpp hs java jl "
        "js jsx kt kts lisp lua m mjs ml nim php pl pm proto ps1 r rb rs scala scm sh sql swift tcl tf "
        "ts tsx v vb vhdl vim vue zig zsh",
    )
)

FORMATS: tuple[Format, ...] = (
    Format("markdown:MarkdownReader", (".md", ".markdown")),
    Format("text:TextReader", (".txt", ".text", ".log"), MAX_TEXT_BYTES),
    Format("web.html:HtmlReader", (".html", ".htm", ".xhtml")),
    Format("web.mhtml:MhtmlReader", (".mhtml", ".mht")),
    Format("web.epub:EpubReader", (".epub",)),
    Format("pdf.reader:PdfReader", (".pdf",)),
    Format("office.docx:DocxReader", (".docx",)),
    Format("office.pptx:PptxReader", (".pptx",)),
    Format("office.sheets:SheetsReader", (".xlsx", ".xls")),
    Format("office.odf:OdtReader", (".odt",)),
    Format("office.odf:OdsReader", (".ods",)),
    Format("office.rtf:RtfReader", (".rtf",)),
    Format("markdown:MdxReader", (".mdx",)),
    Format("markup.rst:RstReader", (".rst", ".rest")),
    Format("markup.asciidoc:AsciiDocReader", (".adoc", ".asciidoc")),
    Format("markup.latex:LatexReader", (".tex", ".latex")),
    Format("markup.org:OrgReader", (".org",)),
    Format("notebook:NotebookReader", (".ipynb",)),
    Format("records.delimited:CsvReader", (".csv",), MAX_TEXT_BYTES),
    Format("records.delimited:TsvReader", (".tsv", ".tab"), MAX_TEXT_BYTES),
    Format("records.json_records:JsonReader", (".json",), MAX_TEXT_BYTES),
    Format("records.json_records:JsonLinesReader", (".jsonl", ".ndjson"), MAX_TEXT_BYTES),
    Format("records.columnar:ParquetReader", (".parquet",)),
    Format("records.columnar:ArrowReader", (".arrow", ".feather")),
    Format("records.xml_text:XmlReader", (".xml",)),
    Format("mail:EmailReader", (".eml",)),
    Format("mail:MboxReader", (".mbox",), MAX_TEXT_BYTES),
    Format("subtitles:SubtitleReader", (".srt", ".vtt")),
    Format("source_code:PythonReader", (".py", ".pyi")),
    Format("source_code:SourceCodeReader", SOURCE_CODE),
)

_TEXT_NAMES = frozenset(
    re.findall(
        r"\w+",
        "readme license licence copying changelog changes history news notice authors contributors contributing "
        "install todo faq credits thanks copyright",
    )
)
_CODE_NAMES = frozenset({"makefile", "dockerfile", "vagrantfile", "jenkinsfile", "rakefile", "gemfile", "procfile"})
_BY_EXTENSION = {extension: row for row in FORMATS for extension in row.extensions}

SUPPORTED_EXTENSIONS = tuple(sorted(_BY_EXTENSION))


@functools.cache
def _load(name: str) -> Reader:
    module, _, reader = name.partition(":")
    loaded: Reader = getattr(importlib.import_module(f"{__name__}.{module}"), reader)()
    return loaded


def reader_for(path: PurePath | str) -> Reader | None:
    """Return the reader of a file, chosen by its extension in any case; None if no reader takes it.

    A file without an extension, and a README, LICENSE or the like with any, is text if its content is.
    """
    row = _format_of(PurePath(path).name)
    return row.load() if row else None


def is_supported(path: PurePath | str) -> bool:
    """Return True if there is a reader for a file of this name; imports none."""
    return _format_of(PurePath(path).name) is not None


def max_bytes_of(path: PurePath | str) -> int:
    """Return the size of the largest file of this name that is read; imports no reader."""
    row = _format_of(PurePath(path).name)
    return row.max_bytes if row else MAX_DOCUMENT_BYTES


def _format_of(name: str) -> Format | None:
    stem, dot, extension = name.rpartition(".")
    row = _BY_EXTENSION.get(f".{extension.lower()}") if dot and stem else None
    if row is not None:
        return row
    if name.lower() in _CODE_NAMES:
        return _BY_EXTENSION[".sh"]
    if not dot or not stem or name.split(".", 1)[0].lower() in _TEXT_NAMES:
        return _BY_EXTENSION[".txt"]
    return None
