"""Files that are damaged, disguised or made to do harm: each gets an error with a reason, soon, and little memory."""

import contextlib
import io
import random
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from document_files import pdf, pdf_line, read, word, zipped

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.documents import files_table, process_documents
from llamafarm_ray.data.readers import FORMATS, DocumentError, EncryptedDocumentError, OversizedDocumentError
from llamafarm_ray.data.readers.package import MAX_UNPACKED_BYTES
from llamafarm_ray.data.sources import SourceFile

MIB = 2**20
MAX_SECONDS = 2.0
MAX_BYTES = 100 * MIB

ZIPPED = (".docx", ".pptx", ".xlsx", ".odt", ".ods", ".epub")
BINARY = (*ZIPPED, ".xls", ".pdf", ".rtf")
WEB = (".html", ".xhtml", ".mhtml")

LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY l0 "lol">'
    + "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    + "]><l>&l9;</l>"
)
OUTSIDE = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]><l>&x;</l>'
DEEP = "<a>" * 100_000
MAIN_PARTS = {
    ".docx": "word/document.xml",
    ".odt": "content.xml",
    ".ods": "content.xml",
    ".epub": "META-INF/container.xml",
}
DOCX = word(lambda document: document.add_paragraph("Some text."))
PDF = pdf(lambda document: (document.add_page(), pdf_line(document, "Some text.")))


def bomb():
    """A ZIP file that unpacks to more than is allowed."""
    buffer = io.BytesIO()
    archive = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("word/document.xml", "w") as part:
        for _ in range(MAX_UNPACKED_BYTES // (16 * MIB) + 1):
            part.write(bytes(16 * MIB))
    return buffer.getvalue()


def refused(extension, data, error=DocumentError):
    """The message of the error that reading ``data`` gives, in time and memory."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(error) as raised:
            read(f"a{extension}", data)
        assert time.process_time() - start < MAX_SECONDS
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
    assert str(raised.value)
    return str(raised.value)


def read_or_refused(extension, data):
    """Read ``data``, which may give an error of ours, in time."""
    start = time.process_time()
    with contextlib.suppress(DocumentError):
        assert read(f"a{extension}", data).sections
    assert time.process_time() - start < MAX_SECONDS


@pytest.mark.parametrize("extension", BINARY)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 5000,
        b"Plain text, and nothing else.",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04" + bytes(100),
    ],
    ids=["empty", "zeros", "text", "image", "zip-start"],
)
def test_content_of_another_type_is_refused(extension, data):
    refused(extension, data)


@pytest.mark.parametrize("extension", ZIPPED)
def test_a_zip_file_of_something_else_is_refused(extension):
    assert "not a valid" in refused(extension, zipped({"hello.txt": "hi"}))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(("extension", "data"), [(".docx", DOCX), (".pdf", PDF)], ids=[".docx", ".pdf"])
def test_half_a_file_is_a_document_or_refused(extension, data, share):
    read_or_refused(extension, data[: int(len(data) * share)])


@pytest.mark.parametrize("extension", ZIPPED)
def test_an_office_file_with_a_password_is_encrypted(extension):
    data = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600) + "EncryptedPackage".encode("utf-16-le")
    assert "encrypted" in refused(extension, data, EncryptedDocumentError)


def test_a_bomb_is_refused_before_it_is_unpacked():
    data = bomb()
    for extension in ZIPPED:
        assert "unpacks to" in refused(extension, data, OversizedDocumentError)


@pytest.mark.parametrize("extension", ZIPPED)
def test_compression_without_bounds_is_refused(extension):
    refused(extension, zipped({"word/document.xml": "x"}, zipfile.ZIP_LZMA))


@pytest.mark.parametrize("xml", [LAUGHS, OUTSIDE, DEEP, "<a", "\0"], ids=["laughs", "outside", "deep", "cut", "zero"])
@pytest.mark.parametrize("extension", sorted(MAIN_PARTS))
def test_xml_that_grows_reaches_out_or_nests_too_deep_is_refused(extension, xml):
    assert "root:" not in refused(extension, zipped({MAIN_PARTS[extension]: xml}))


def test_entities_in_an_office_document_are_refused():
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    body = f"<w:document {space}><w:body><w:p><w:r><w:t>It costs &x;.</w:t></w:r></w:p></w:body></w:document>"
    xml = f'<?xml version="1.0"?><!DOCTYPE w [<!ENTITY x "20 euros">]>{body}'
    assert "declares entities" in refused(".docx", zipped({"word/document.xml": xml}))


def test_a_sheet_with_one_cell_at_the_far_end_is_refused():
    sheet = '<worksheet><sheetData><row r="1048576"><c r="XFD1048576"/></row></sheetData></worksheet>'
    data = zipped({"[Content_Types].xml": "<Types/>", "xl/worksheets/sheet1.xml": sheet})
    assert "cells are the limit" in refused(".xlsx", data, OversizedDocumentError)


def test_an_rtf_file_that_nests_or_runs_on_without_end_is_refused():
    refused(".rtf", rb"{\rtf1 " + b"{" * 100_000)
    refused(".rtf", rb"{\rtf1{\fonttbl" + rb"\f1" * 200_000)
    refused(".rtf", rb"{\rtf1 " + b"x\\par " * 2_000_000)


@pytest.mark.parametrize("extension", WEB)
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, b"<div>" * 50_000, LAUGHS.encode() + b"<p>", b"<table>" * 5000, b"<!--" * 50_000]
)
def test_pages_are_read_or_refused_in_time(extension, data):
    read_or_refused(extension, data)


def test_damaged_bytes_anywhere_give_a_document_or_a_named_error():
    chance = random.Random(1)
    for extension, data in ((".docx", DOCX), (".pdf", PDF)) * 20:
        damaged = bytearray(data)
        for _ in range(5):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        read_or_refused(extension, bytes(damaged))


def test_a_build_goes_on_past_broken_files_and_names_each(tmp_path: Path):
    extensions = [extension for row in FORMATS for extension in row.extensions]
    for extension in extensions:
        (tmp_path / f"broken{extension}").write_bytes(b"\0\1\2" * 50)
    (tmp_path / "good.md").write_text("# Mill\n\nThe mill opens at eight.\n")
    files = [SourceFile(path.name, bytes(path)) for path in sorted(tmp_path.iterdir())]
    tables = process_documents(files_table(files), config=DatasetConfig(), by_rules=True)
    errors = {row["path"]: row["error"] for table in tables for row in table.to_pylist()}
    assert errors.pop("good.md") == ""
    assert sorted(errors) == sorted(f"broken{extension}" for extension in extensions)
    assert all(errors.values())
