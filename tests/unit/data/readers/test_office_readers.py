"""Office documents give what their reader sees: changes accepted, hidden parts left out, tables as rows."""

import io

import pptx
import pytest
from document_files import blocks, outline, read, word, zipped
from docx.oxml import parse_xml
from pptx.util import Inches

from llamafarm_ray.data.readers import EncryptedDocumentError

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def word_xml(*xml, **parts):
    """A DOCX file whose body is ``xml``."""

    def write(document):
        for element in xml:
            document.element.body.insert(len(document.element.body) - 1, parse_xml(element.replace(">", f" {W}>", 1)))

    return word(write)


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


def test_docx_has_insertions_and_no_deletions():
    data = word_xml(
        "<w:p><w:r><w:t>It closes at </w:t></w:r><w:del><w:r><w:delText>20:00</w:delText></w:r></w:del>"
        "<w:ins><w:r><w:t>22:00</w:t></w:r></w:ins><w:r><w:t>.</w:t></w:r></w:p>",
        "<w:ins><w:p><w:r><w:t>A new one.</w:t></w:r></w:p></w:ins>",
        "<w:p><w:moveFrom><w:r><w:t>Moved.</w:t></w:r></w:moveFrom></w:p>",
        "<w:p><w:moveTo><w:r><w:t>Moved.</w:t></w:r></w:moveTo></w:p>",
    )
    assert blocks("a.docx", data) == ["It closes at 22:00.", "A new one.", "Moved."]


def test_docx_has_content_controls_links_and_fields_and_no_hidden_text():
    data = word_xml(
        "<w:sdt><w:sdtContent><w:p><w:r><w:t>In a control.</w:t></w:r></w:p></w:sdtContent></w:sdt>",
        "<w:p><w:r><w:t>See </w:t></w:r><w:hyperlink><w:r><w:t>the rules</w:t></w:r></w:hyperlink>"
        "<w:r><w:rPr><w:vanish/></w:rPr><w:t> hidden</w:t></w:r>"
        '<w:r><w:rPr><w:vanish w:val="0"/></w:rPr><w:t>, page </w:t></w:r>'
        "<w:r><w:instrText>PAGEREF</w:instrText></w:r><w:sdt><w:sdtContent><w:r><w:t>4.</w:t></w:r></w:sdtContent>"
        "</w:sdt></w:p>",
    )
    assert blocks("a.docx", data) == ["In a control.", "See the rules, page 4."]


def test_docx_reads_tables_in_cells_once():
    cells = "".join(f"<w:tc><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>" for text in ("Phone", "555"))
    inner = f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
    data = word_xml(f"<w:tbl><w:tr><w:tc><w:p><w:r><w:t>Office</w:t></w:r></w:p>{inner}<w:p/></w:tc></w:tr></w:tbl>")
    assert blocks("a.docx", data) == ["Office", "Phone: 555"]


def test_docx_footnotes_follow_their_paragraph():
    main = (
        f"<w:document {W}><w:body><w:p><w:r><w:t>Entry is free</w:t><w:footnoteReference w:id='2'/></w:r>"
        "<w:r><w:t>.</w:t></w:r></w:p><w:p><w:r><w:t>Bring a card.</w:t></w:r></w:p></w:body></w:document>"
    )
    notes = (
        f"<w:footnotes {W}><w:footnote w:type='separator' w:id='0'><w:p/></w:footnote><w:footnote w:id='2'><w:p><w:r>"
        "<w:t>Except on Sundays.</w:t></w:r></w:p></w:footnote></w:footnotes>"
    )
    data = zipped({"word/document.xml": main, "word/footnotes.xml": notes})
    assert blocks("a.docx", data) == ["Entry is free.", "Except on Sundays.", "Bring a card."]


# PPTX


def deck(write):
    presentation = pptx.Presentation()
    write(presentation)
    buffer = io.BytesIO()
    presentation.save(buffer)
    return buffer.getvalue()


def test_slides_have_titles_texts_tables_and_notes():
    def write(presentation):
        first = presentation.slides.add_slide(presentation.slide_layouts[1])
        first.shapes.title.text = "Opening hours"
        first.placeholders[1].text = "The gate opens at 8.\nIt closes at 20."
        first.notes_slide.notes_text_frame.text = "Mention the holidays."
        second = presentation.slides.add_slide(presentation.slide_layouts[5])
        second.shapes.title.text = "Prices"
        table = second.shapes.add_table(3, 3, Inches(1), Inches(1), Inches(5), Inches(2)).table
        for row, texts in enumerate([("Ticket", "Price", "Valid"), ("Day", "12", "1 day"), ("Week", "40", "7 days")]):
            for column, text in enumerate(texts):
                table.cell(row, column).text = text
        group = second.shapes.add_group_shape()
        group.shapes.add_textbox(0, 0, 1, 1).text_frame.text = "In a group."
        hidden = presentation.slides.add_slide(presentation.slide_layouts[5])
        hidden.shapes.title.text = "Draft"
        hidden.shapes.add_textbox(0, 0, 1, 1).text_frame.text = "Not shown."
        hidden.element.set("show", "0")

    document = read("a.pptx", deck(write))
    assert [(section.headings, section.page, section.blocks) for section in document.sections] == [
        (("Opening hours",), 1, ("The gate opens at 8.", "It closes at 20.", "Mention the holidays.")),
        (
            ("Prices",),
            2,
            ("Day \u2013 Price: 12; Valid: 1 day", "Week \u2013 Price: 40; Valid: 7 days", "In a group."),
        ),
    ]
    assert document.title == "Opening hours"


# Sheets


def workbook(rows, state="visible"):
    cells = "".join(
        f"<row r='{y}'>"
        + "".join(
            f'<c r="{column}{y}"><v>{value}</v></c>'
            if isinstance(value, int | float)
            else f'<c r="{column}{y}" t="inlineStr"><is><t>{value}</t></is></c>'
            for column, value in zip("ABCDEF", row, strict=False)
            if value != ""
        )
        + "</row>"
        for y, row in enumerate(rows, start=1)
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    return zipped(
        {
            "[Content_Types].xml": f"<Types xmlns='{package}/content-types'/>",
            "_rels/.rels": f"<Relationships xmlns='{package}/relationships'><Relationship Id='r1' "
            f"Type='{office}/officeDocument' Target='xl/workbook.xml'/></Relationships>",
            "xl/workbook.xml": f"<workbook xmlns='{main}' xmlns:r='{office}'><sheets><sheet name='Prices' sheetId='1' "
            f"state='{state}' r:id='r1'/></sheets></workbook>",
            "xl/_rels/workbook.xml.rels": f"<Relationships xmlns='{package}/relationships'><Relationship Id='r1' "
            f"Type='{office}/worksheet' Target='worksheets/sheet1.xml'/></Relationships>",
            "xl/worksheets/sheet1.xml": f"<worksheet xmlns='{main}'><sheetData>{cells}</sheetData></worksheet>",
        }
    )


def test_rows_of_a_sheet_name_their_columns():
    rows = [("Ticket", "Price", "Days"), ("Day", 12.5, 1), ("Week", 40, 7), ("", "", ""), ("Open", "daily")]
    assert outline(read("prices.xlsx", workbook(rows))) == {
        ("Prices",): ["Day \u2013 Price: 12.5; Days: 1", "Week \u2013 Price: 40; Days: 7", "Open: daily"]
    }


# OpenDocument

ODF = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "text", "table", "style")
)


def open_document(kind, body, styles="", **parts):
    content = (
        f"<office:document-content {ODF}><office:automatic-styles>{styles}</office:automatic-styles><office:body>"
        f"<office:{kind}>{body}</office:{kind}></office:body></office:document-content>"
    )
    return zipped({"content.xml": content, **parts})


def test_odt_keeps_headings_lists_tables_and_notes_and_drops_what_is_hidden_or_deleted():
    hidden = "<style:style style:name='T1'><style:text-properties text:display='none'/></style:style>"
    meta = "<m xmlns:dc='http://purl.org/dc/elements/1.1/'><dc:title>House rules</dc:title></m>"
    body = """<text:tracked-changes><text:p>Deleted.</text:p></text:tracked-changes>
    <text:h text:outline-level="1">Entry</text:h>
    <text:p>Entry is<text:s/>free<text:note><text:note-citation>1</text:note-citation><text:note-body>
    <text:p>Except on Sundays.</text:p></text:note-body></text:note>.<text:span
    text:style-name="T1">no</text:span></text:p>
    <text:list><text:list-item><text:p>Bring a card.</text:p></text:list-item></text:list>
    <table:table><table:table-row><table:table-cell><text:p>Phone</text:p></table:table-cell>
    <table:table-cell><text:p>555</text:p></table:table-cell></table:table-row></table:table>"""
    document = read("a.odt", open_document("text", body, hidden, **{"meta.xml": meta}))
    assert document.title == "House rules"
    assert outline(document) == {("Entry",): ["Entry is free.", "Except on Sundays.", "Bring a card.", "Phone: 555"]}


def test_ods_shows_values_as_they_are_displayed_and_repeats_no_empty_cells():
    def row(*texts, repeated=1):
        cells = "".join(f"<table:table-cell><text:p>{text}</text:p></table:table-cell>" for text in texts)
        empty = '<table:table-cell table:number-columns-repeated="16381"/>'
        return f'<table:table-row table:number-rows-repeated="{repeated}">{cells}{empty}</table:table-row>'

    body = row("Ticket", "Price", "Days") + row("Day", "12.50 \u20ac", "1") + row(repeated=1_048_000)
    data = open_document("spreadsheet", f'<table:table table:name="Prices">{body}</table:table>')
    assert outline(read("a.ods", data)) == {("Prices",): ["Day \u2013 Price: 12.50 \u20ac; Days: 1"]}


def test_an_encrypted_open_document_is_named_as_such():
    manifest = "<m><file-entry><encryption-data/></file-entry></m>"
    with pytest.raises(EncryptedDocumentError):
        read("a.odt", open_document("text", "", **{"META-INF/manifest.xml": manifest}))


# RTF


def test_rtf_has_paragraphs_tables_and_a_title():
    data = (
        rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\info{\title House rules}}{\header Page}"
        rb"\pard The caf\'e9 opens at \b eight\b0 .\par {\field{\*\fldinst{HYPERLINK "
        rb'"http://x.org"}}{\fldrslt See the list}}.\par'
        rb"\trowd\cellx1000\cellx2000 Phone\cell 555\cell\row\pard Bring a card.\par}"
    )
    document = read("a.rtf", data)
    assert document.title == "House rules"
    assert outline(document) == {(): ["The caf\u00e9 opens at eight.", "See the list.", "Phone: 555", "Bring a card."]}
