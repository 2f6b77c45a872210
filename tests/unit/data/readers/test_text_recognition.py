"""Scanned pages are recognized by the engine that is set: Tesseract's command, or a plug-in."""

import sys
from types import ModuleType

import pytest
from document_files import pdf, pdf_line, read
from PIL import Image

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build import documents
from llamafarm_ray.data.build.documents import files_table, process_documents
from llamafarm_ray.data.readers import DocumentError
from llamafarm_ray.data.readers.pdf.recognition import RecognizedLine
from llamafarm_ray.data.readers.recognition import recognizing
from llamafarm_ray.data.sources import SourceFile, read_file

HEAD = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext"
WORDS = [
    "1\t1\t0\t0\t0\t0\t0\t0\t2480\t3508\t-1\t",
    "5\t1\t1\t1\t1\t1\t300\t400\t120\t50\t96.1\tThe",
    "5\t1\t1\t1\t1\t2\t440\t400\t160\t50\t95.0\tmill",
    "5\t1\t1\t1\t1\t3\t620\t400\t200\t50\t94.2\topens",
    '5\t1\t1\t1\t1\t4\t840\t400\t90\t50\t93.0\t"at',
    "5\t1\t1\t1\t1\t5\t950\t400\t150\t50\t92.9\teight.",
    "5\t1\t1\t1\t2\t1\t300\t480\t150\t50\t4.0\t~~|",
]


def scan(*, with_text=False):
    def write(document):
        if with_text:
            document.add_page()
            pdf_line(document, "The mill is old.")
        document.add_page(format=(70, 100))
        document.image(Image.new("L", (40, 60)), x=0, y=0, w=70, h=100)

    return pdf(write)


@pytest.fixture
def tesseract(tmp_path, monkeypatch):
    """A command that answers as Tesseract does, and writes down what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "table.tsv").write_text("\n".join([HEAD, *WORDS]) + "\n")
    command = folder / "tesseract"
    script = 'echo "$@" > "{0}/asked"; head -c 8 > "{0}/image"; cat > /dev/null; cat "{0}/table.tsv"'
    command.write_text(f"#!/bin/sh\n{script.format(folder)}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_tesseract_reads_a_scanned_page(tesseract):
    with recognizing("tesseract:eng+deu"):
        found = read("a.pdf", scan(with_text=True))
    assert [(section.page, section.blocks) for section in found.sections] == [
        (1, ("The mill is old.",)),
        (2, ('The mill opens "at eight.',)),
    ]
    assert found.notes == ("1 of 2 pages are scans, whose text was recognized.",)
    assert (tesseract / "asked").read_text().split() == ["stdin", "stdout", "--dpi", "300", "-l", "eng+deu", "tsv"]
    assert (tesseract / "image").read_bytes() == b"\x89PNG\r\n\x1a\n"


def test_a_build_recognizes_scans_where_it_is_set_and_else_names_the_setting(tesseract, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "read_within", lambda path, location, _limits, ocr: read_file(path, location, ocr))
    (tmp_path / "a.pdf").write_bytes(scan())
    files = files_table([SourceFile("a.pdf", bytes(tmp_path / "a.pdf"))])
    results = [
        process_documents(files, config=DatasetConfig.model_validate({"source": {"ocr": ocr}}), by_rules=False)
        for ocr in ("tesseract", None)
    ]
    (recognized,), (skipped,) = ([row for table in tables for row in table.to_pylist()] for tables in results)
    assert (recognized["error"], len(recognized["passages"])) == ("", 1)
    assert skipped["error"].endswith("Set dataset.source.ocr to recognize them.")


def test_a_plug_in_reads_a_scanned_page(monkeypatch):
    plug_in = ModuleType("my_ocr")
    plug_in.lines = lambda _png: [RecognizedLine("The mill opens at eight.", 300, 400, 1100, 450)]
    monkeypatch.setitem(sys.modules, "my_ocr", plug_in)
    with recognizing("my_ocr:lines"):
        assert read("a.pdf", scan()).sections[0].blocks == ("The mill opens at eight.",)
    plug_in.lines = lambda _png: 1 / 0
    with recognizing("my_ocr:lines"), pytest.raises(DocumentError, match=r"'my_ocr:lines' failed \(ZeroDivisionError"):
        read("a.pdf", scan())


@pytest.mark.parametrize(
    ("engine", "message"),
    [("tesseract", "Tesseract is not installed on this node"), ("no_ocr:lines", "'no_ocr:lines' .*can't be imported")],
)
def test_an_engine_that_is_missing_is_named_with_the_way_out(monkeypatch, tmp_path, engine, message):
    monkeypatch.setenv("PATH", str(tmp_path))
    with recognizing(engine), pytest.raises(DocumentError, match=message):
        read("a.pdf", scan())


def test_a_command_that_fails_is_told(tesseract):
    (tesseract / "tesseract").write_text("#!/bin/sh\necho 'no language xx' >&2\nexit 1\n")
    with recognizing("tesseract:xx"), pytest.raises(DocumentError, match=r"failed \(no language xx\)"):
        read("a.pdf", scan())
