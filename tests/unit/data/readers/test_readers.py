"""Each reader gives the text of its format under its headings, or says why it can't."""

import contextlib
import subprocess
import sys

import pytest
from document_files import outline, read, word
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafarm_ray.data.readers import (
    FORMATS,
    DocumentError,
    OversizedDocumentError,
    reader_for,
)
from llamafarm_ray.data.readers.base import list_item, table_lines


@pytest.mark.parametrize(
    ("path", "format_name"),
    [
        ("a.md", "Markdown"),
        ("a.TXT", "text"),
        ("a.htm", "HTML"),
        ("a.html", "HTML"),
        ("x/a.Pdf", "PDF"),
        ("a.docx", "DOCX"),
        ("a.xlsx", "Excel"),
    ],
)
def test_the_extension_chooses_the_reader_in_any_case(path, format_name):
    assert reader_for(path).name == format_name


def test_other_extensions_have_no_reader():
    assert reader_for("a.xyz") is None


# Markdown


def test_markdown_keeps_heading_paths_paragraphs_lists_and_tables():
    text = "# Tour\nIt starts\nhere.\n\n## Prices\n- one *item*\n- [two](http://x)\n\n|a|b|\n|-|-|\n|Adult|12 euros|\n"
    document = read("a.md", text.encode())
    assert document.title == "Tour"
    assert outline(document) == {
        ("Tour",): ["It starts here."],
        ("Tour", "Prices"): ["one item", "two", "Adult: 12 euros"],
    }


def test_markdown_takes_the_title_of_front_matter_and_keeps_code():
    document = read("a.md", b"---\ntitle: Given\nx: 1\n---\nText `with code`.\n\n```\n  code\n```\n")
    assert document.title == "Given"
    assert outline(document) == {(): ["Text with code.", "```\n  code\n```"]}


def test_two_rules_in_markdown_are_no_front_matter():
    assert outline(read("a.md", b"---\nJust: [text\n---\nMore.\n"))


def test_a_document_without_title_is_named_after_its_file():
    assert read("sub/opening_hours.md", b"Text.").title == "opening hours"


# Plain text


def test_text_joins_wrapped_lines_and_keeps_list_items_apart():
    text = "The Guide\n\nOne line that\ngoes on here.\n\nRULES\n\n- first\n- second\n  goes on\n"
    document = read("a.txt", text.encode())
    assert document.title == "The Guide"
    assert outline(document) == {
        ("The Guide",): ["One line that goes on here."],
        ("The Guide", "RULES"): ["first", "second goes on"],
    }


def test_a_number_that_ends_a_sentence_at_the_start_of_a_line_is_no_list_mark():
    document = read("a.txt", b"Open to all over the age of\n16. Ruben keeps the register since\n1689. Bring a card.\n")
    assert outline(document) == {
        (): ["Open to all over the age of 16. Ruben keeps the register since 1689. Bring a card."]
    }


def test_numbered_lists_are_read_in_their_order():
    assert list_item("1. Open it", 0) == ("Open it", 1)
    assert list_item("2) Close it", 1) == ("Close it", 2)
    assert list_item("7. Not its turn", 1) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_is_decoded_from_the_encodings_people_save_in(encoding):
    assert outline(read("a.txt", "Das Café öffnet um acht.".encode(encoding))) == {(): ["Das Café öffnet um acht."]}


# All of them


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.reader)
def test_too_much_is_refused(row, monkeypatch):
    monkeypatch.setattr(type(row.load()), "max_bytes", 10)
    with pytest.raises(OversizedDocumentError, match="MiB"):
        row.load().read(b"x" * 11, "a")


def test_the_table_of_formats_says_what_a_reader_takes():
    assert all(row.load().max_bytes == row.max_bytes for row in FORMATS)


def test_every_extension_belongs_to_one_reader():
    extensions = [extension for row in FORMATS for extension in row.extensions]
    assert len(extensions) == len(set(extensions))


def test_parsers_are_imported_only_when_a_file_of_their_format_is_read():
    code = "import sys, llamafarm_ray.data.readers; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    parsers = {"bs4", "docutils", "lxml", "markdown_it", "pptx", "pypdfium2", "python_calamine", "striprtf"}
    assert not parsers.intersection(loaded)


@settings(max_examples=60)
@given(
    st.binary(max_size=300),
    st.sampled_from([".txt", ".md", ".html"]),
)
def test_any_bytes_give_a_document_or_a_named_error(data, extension):
    with contextlib.suppress(DocumentError):
        assert read(f"a{extension}", data).sections


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_in_a_docx_gives_a_document_or_a_named_error(place, value):
    data = bytearray(_DOCX)
    data[place % len(data)] = value
    with contextlib.suppress(DocumentError):
        assert read("a.docx", bytes(data)).sections


_DOCX = word(lambda document: document.add_paragraph("Some text to damage."))


def test_tables_become_definitions_or_named_cells():
    assert table_lines([["Phone", "555"]], header=False) == ["Phone: 555"]
    assert table_lines([["T", "Price", "Valid"], ["Day", "12", ""]], header=True) == ["Day \u2013 Price: 12"]
    assert table_lines([["a", "b", "c"]], header=False) == ["a; b; c"]
    assert table_lines([], header=True) == []
