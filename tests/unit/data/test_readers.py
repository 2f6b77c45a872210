"""Each reader gives the text of its format under its headings, or says why it can't."""

import contextlib
import io
import zipfile

import docx
import pytest
from fpdf import FPDF, XPos, YPos
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafarm_ray.data.readers import (
    FORMATS,
    BrokenDocumentError,
    DocumentError,
    EmptyDocumentError,
    EncryptedDocumentError,
    OversizedDocumentError,
    Reader,
    reader_for,
)
from llamafarm_ray.data.readers import docx as docx_reader
from llamafarm_ray.data.readers.base import MAX_DOCUMENT_BYTES, list_item, table_lines


def read(path, data):
    return reader_for(path).read(data, path)


def outline(document):
    return {section.headings: list(section.blocks) for section in document.sections}


def pdf(write, **options):
    document = FPDF(**options)
    document.set_font("helvetica", size=11)
    write(document)
    return bytes(document.output())


def line(document, text, size=11):
    document.set_font("helvetica", size=size)
    document.cell(0, 8, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def word(write):
    document = docx.Document()
    write(document)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("path", "format_name"),
    [
        ("a.md", "Markdown"),
        ("a.TXT", "text"),
        ("a.htm", "HTML"),
        ("a.html", "HTML"),
        ("x/a.Pdf", "PDF"),
        ("a.docx", "DOCX"),
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


# HTML


def test_html_drops_scripts_styles_and_navigation():
    html = """<html><head><title>T</title><style>p{}</style></head><body><nav>Home</nav>
    <h1>Museum</h1><p>It <b>opens</b> at&nbsp;10.</p><script>x()</script><!-- no -->
    <h2>Prices</h2><ul><li>Adult<li>Child</ul><dl><dt>Phone</dt><dd>555</dd></dl>
    <table><tr><th>Ticket</th><th>Price</th></tr><tr><td>Day</td><td>12</td></tr></table></body></html>"""
    document = read("a.html", html.encode())
    assert document.title == "Museum"
    assert outline(document) == {
        ("Museum",): ["It opens at 10."],
        ("Museum", "Prices"): ["Adult", "Child", "Phone: 555", "Day: 12"],
    }


def test_html_uses_the_encoding_it_declares():
    data = '<meta charset="iso-8859-1"><p>Café</p>'.encode("latin-1")
    assert outline(read("a.html", data)) == {(): ["Café"]}


def test_deeply_nested_html_does_not_exhaust_the_stack():
    assert read("a.html", b"<div>" * 20_000 + b"deep" + b"</div>" * 20_000)


# PDF


def test_pdf_joins_wrapped_and_divided_lines():
    def write(document):
        document.add_page()
        line(document, "Handbook", size=20)
        line(document, "The workshop opens at nine and everybody who wants to come is wel-")
        line(document, "come on every day of the week.")
        line(document, "Opening hours", size=15)
        line(document, "It is closed at night.")

    document = read("a.pdf", pdf(write))
    assert document.title == "Handbook"
    assert outline(document) == {
        ("Handbook",): [
            "The workshop opens at nine and everybody who wants to come is welcome on every day of the week."
        ],
        ("Handbook", "Opening hours"): ["It is closed at night."],
    }


def test_pdf_drops_running_heads_and_page_numbers():
    def write(document):
        for number in range(1, 5):
            document.add_page()
            line(document, "Acme Corp - internal")
            line(document, f"Page number {['one', 'two', 'three', 'four'][number - 1]} has its own sentence here.")
            line(document, f"Page {number} of 4")

    text = " ".join(block for blocks in outline(read("a.pdf", pdf(write))).values() for block in blocks)
    assert "Acme" not in text
    assert "of 4" not in text
    assert text.count("own sentence") == 4


def test_an_encrypted_pdf_is_named_as_such():
    def write(document):
        document.set_encryption(owner_password="a", user_password="b")  # noqa: S106
        document.add_page()
        line(document, "Secret.")

    with pytest.raises(EncryptedDocumentError, match="encrypted"):
        read("a.pdf", pdf(write))


def test_a_scan_is_reported_with_the_way_out():
    with pytest.raises(EmptyDocumentError, match="OCR"):
        read("a.pdf", pdf(lambda document: document.add_page()))


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.7\n%%EOF"])
def test_a_broken_pdf_is_named_as_such(data):
    with pytest.raises(BrokenDocumentError, match="not a valid PDF"):
        read("a.pdf", data)


# DOCX


def test_docx_keeps_headings_paragraphs_and_tables_in_order():
    def write(document):
        document.add_paragraph("Staff Handbook", style="Title")
        document.add_heading("Leave", level=1)
        document.add_paragraph("Leave is 25 days.")
        table = document.add_table(rows=0, cols=3)
        for row in [("Ticket", "Price", "Valid"), ("Adult", "12 euros", "one day")]:
            for cell, text in zip(table.add_row().cells, row, strict=True):
                cell.text = text
        document.add_paragraph("After the table.")

    document = read("a.docx", word(write))
    assert document.title == "Staff Handbook"
    assert outline(document) == {
        ("Leave",): ["Leave is 25 days.", "Adult \u2013 Price: 12 euros; Valid: one day", "After the table."]
    }


def test_a_docx_that_is_no_zip_or_no_word_file_is_broken():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hi")
    for data in (b"", b"PK\x03\x04rubbish", buffer.getvalue(), word(lambda d: d.add_paragraph("x"))[:-400]):
        with pytest.raises(BrokenDocumentError, match="not a valid DOCX"):
            read("a.docx", data)


def test_an_office_file_with_a_password_is_encrypted():
    with pytest.raises(EncryptedDocumentError):
        read("a.docx", bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600))


def test_a_zip_bomb_is_refused_before_it_is_unpacked():
    buffer = io.BytesIO(word(lambda document: document.add_paragraph("x")))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("word/bomb.xml", "w") as part:
        for _ in range(docx_reader.MAX_UNPACKED_BYTES // 2**24 + 1):
            part.write(bytes(2**24))
    assert len(buffer.getvalue()) < MAX_DOCUMENT_BYTES
    with pytest.raises(OversizedDocumentError, match="unpacks to"):
        read("a.docx", buffer.getvalue())


# All of them


@pytest.mark.parametrize("reader", [row.load() for row in FORMATS], ids=lambda reader: reader.name)
def test_too_much_is_refused(reader, monkeypatch):
    monkeypatch.setattr(type(reader), "max_bytes", 10)
    with pytest.raises(OversizedDocumentError, match="MiB"):
        reader.read(b"x" * 11, "a")


def test_the_table_of_formats_says_what_a_reader_takes():
    assert all(row.load().max_bytes == row.max_bytes for row in FORMATS)


def test_every_extension_belongs_to_one_reader():
    extensions = [extension for row in FORMATS for extension in row.extensions]
    assert len(extensions) == len(set(extensions))


@settings(max_examples=60)
@given(
    st.binary(max_size=300),
    st.sampled_from([reader_for(name) for name in ("a.txt", "a.md", "a.html")]),
)
def test_any_bytes_give_a_document_or_a_named_error(data, reader: Reader):
    with contextlib.suppress(DocumentError):
        assert reader.read(data, "a").sections


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
