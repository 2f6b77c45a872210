"""Links and the rows of tables stay with the passage that they are in, and with the rows made from it."""

import io
import json

import pptx
import pytest
from document_files import pdf, pdf_line, read, word, zipped
from pptx.util import Cm

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.documents import files_table, process_documents
from llamafarm_ray.data.parsed import Passage, TablePlace
from llamafarm_ray.data.quality.pii import HandlePii
from llamafarm_ray.data.rows import Provenance
from llamafarm_ray.data.sources import SourceFile
from llamafarm_ray.data.steps import Clean, Ledger, SplitPassages

MARKDOWN = b"""# Mill

The mill opens at eight, see [the hours](https://mill.example/hours) and [below](#prices).

## Prices

| visitor | price |
| --- | --- |
| adult | four euros |
| [child](kids.html) | two euros |

| day | closes |
| --- | --- |
| Sunday | at noon |
"""
HTML = b"""<html><body><h1>Mill</h1>
<p>The mill opens at eight, see <a href="https://mill.example/hours">the hours</a> and <a href="#prices">below</a>.</p>
<h2>Prices</h2><table><tr><th>visitor</th><th>price</th></tr><tr><td>adult</td><td>four euros</td></tr>
<tr><td><a href="kids.html">child</a></td><td>two euros</td></tr></table>
<table><tr><th>day</th><th>closes</th></tr><tr><td>Sunday</td><td>at noon</td></tr></table></body></html>"""
RST = b"""Mill
====

The mill opens at eight, see `the hours <https://mill.example/hours>`_.

Prices
------

========================  ==========
visitor                   price
========================  ==========
adult                     four euros
`child <kids.html>`_      two euros
========================  ==========

======  =======
day     closes
======  =======
Sunday  at noon
======  =======
"""
ASCIIDOC = b"""= Mill

The mill opens at eight, see https://mill.example/hours[the hours].

== Prices

|===
|visitor |price
|adult |four euros
|child |two euros
|===
"""
ORG = b"""#+TITLE: Mill
The mill opens at eight, see [[https://mill.example/hours][the hours]].

* Prices
| visitor | price |
|---------+-------|
| adult | four euros |
| child | two euros |
"""
HOURS = "https://mill.example/hours"
KIDS = "https://mill.example/kids"


def passages(name, data, words=80):
    return list(SplitPassages(words).run(Clean().run([read(name, data)], Ledger()), Ledger()))


@pytest.mark.parametrize(
    ("name", "data"), [("a.md", MARKDOWN), ("a.html", HTML), ("a.rst", RST), ("a.adoc", ASCIIDOC), ("a.org", ORG)]
)
def test_a_passage_names_its_links_and_the_rows_of_its_tables(name, data):
    opening, prices = passages(name, data)
    assert (opening.links, opening.tables) == ((HOURS,), ())
    assert prices.tables[0] == TablePlace(1, 1, 2)
    if b"Sunday" in data:
        assert (prices.links, prices.tables[1:]) == (("kids.html",), (TablePlace(2, 1, 1),))
        assert Passage.from_json(prices.to_json()) == prices


def test_a_long_table_is_in_several_passages_each_with_its_rows():
    rows = "".join(f"| guest {number} | room {number} of the house |\n" for number in range(1, 13))
    found = passages("a.md", f"| guest | room |\n| --- | --- |\n{rows}".encode(), words=30)
    places = [place for passage in found for place in passage.tables]
    assert [place.table for place in places] == [1] * len(found)
    assert (places[0].first_row, places[0].last_row) == (1, 4)
    numbers = [number for place in places for number in range(place.first_row, place.last_row + 1)]
    assert numbers == list(range(1, 13))


def test_word_documents_name_the_targets_of_their_links():
    def write(document):
        document.add_paragraph("The mill opens at eight.")
        paragraph = document.add_paragraph("See ")
        target = document.part.relate_to(HOURS, "http://x/hyperlink", is_external=True)
        link = paragraph._p.makeelement(
            "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}hyperlink",
            {"{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id": target},
        )
        link.append(paragraph.add_run("the hours")._r)
        paragraph._p.append(link)

    (passage,) = passages("a.docx", word(write))
    assert (passage.text, passage.links) == ("The mill opens at eight.\nSee the hours", (HOURS,))


def test_pdf_files_name_the_targets_of_their_links_and_the_rows_of_their_tables():
    def write(document):
        pdf_line(document, "The mill opens at eight on every day of the week.")
        document.cell(0, 8, "See the hours of the mill.", link=HOURS, new_x="LMARGIN", new_y="NEXT")
        document.ln(20)
        for row in (("visitor", "price"), ("adult", "four euros"), ("child", "two euros")):
            for text, target in zip(row, (KIDS if row[0] == "child" else "", ""), strict=True):
                document.cell(90, 8, text, link=target)
            document.ln()

    (passage,) = passages("a.pdf", pdf(lambda document: (document.add_page(), write(document))))
    assert passage.links == (HOURS, KIDS)
    assert [(place.table, place.first_row, place.last_row) for place in passage.tables] == [(1, 1, 3)]


def test_a_link_inside_of_a_pdf_file_is_none_and_one_belongs_to_the_paragraph_that_it_is_in():
    def write(document):
        document.add_page()
        document.multi_cell(
            0, 8, "The mill opens at eight on every day of the week. " * 6, new_x="LMARGIN", new_y="NEXT"
        )
        document.ln(20)
        document.cell(0, 8, "The barn is open too.", link=HOURS, new_x="LMARGIN", new_y="NEXT")
        document.ln(20)
        document.cell(0, 8, "More is on the next page.", link=document.add_link(page=1))

    (section,) = read("a.pdf", pdf(write)).sections
    assert [mark.links for mark in section.marks] == [(), (HOURS,), ()]


def test_slides_name_the_targets_of_links_in_texts_tables_and_shapes():
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[6])
    box = slide.shapes.add_textbox(0, 0, Cm(10), Cm(2))
    run = box.text_frame.paragraphs[0].add_run()
    run.text, run.hyperlink.address = "See the hours", HOURS
    table = slide.shapes.add_table(2, 2, 0, Cm(3), Cm(10), Cm(4)).table
    for place, text in enumerate(("visitor", "price", "child", "two euros")):
        table.cell(place // 2, place % 2).text = text
    table.cell(1, 0).text_frame.paragraphs[0].runs[0].hyperlink.address = KIDS
    shape = slide.shapes.add_textbox(0, Cm(8), Cm(10), Cm(2))
    shape.text_frame.text = "The shop"
    shape.click_action.hyperlink.address = "https://mill.example/shop"
    written = io.BytesIO()
    presentation.save(written)
    (section,) = read("a.pptx", written.getvalue()).sections
    links = [mark.links for mark in section.marks]
    assert links == [(HOURS,), (KIDS,), (), ("https://mill.example/shop",)]


def test_opendocument_texts_name_the_targets_of_their_links():
    namespaces = "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "text", "table")
    )
    content = (
        f'<office:document-content{namespaces} xmlns:xlink="http://www.w3.org/1999/xlink"><office:body><office:text>'
        f'<text:p>See <text:a xlink:href="{HOURS}">the <text:span>hours</text:span></text:a> of the mill.</text:p>'
        "<text:p>The mill opens at eight.</text:p></office:text></office:body></office:document-content>"
    )
    (section,) = read("a.odt", zipped({"content.xml": content})).sections
    assert section.blocks == ("See the hours of the mill.", "The mill opens at eight.")
    assert [mark.links for mark in section.marks] == [(HOURS,), ()]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_rows_of_delimited_files_are_rows_of_one_table(name):
    data = "visitor,price\nadult,four euros\n\nchild,two euros\nguest,nothing\n".replace(
        ",", "," if name == "a.csv" else "\t"
    )
    (section,) = read(name, data.encode()).sections
    assert section.blocks[0] == "visitor: adult; price: four euros"
    assert [mark.table for mark in section.marks] == [TablePlace(1, row, row) for row in (1, 2, 3)]


def test_rows_carry_the_metadata_and_leave_it_out_with_the_rest_of_their_origin(tmp_path):
    (tmp_path / "a.md").write_bytes(MARKDOWN)
    files = files_table([SourceFile("a.md", bytes(tmp_path / "a.md"))])
    (table,) = process_documents(files, config=DatasetConfig(), by_rules=True)
    (result,) = table.to_pylist()
    told = [json.loads(row["provenance"]) for row in result["examples"]]
    tables = [{"table": 1, "first_row": 1, "last_row": 2}, {"table": 2, "first_row": 1, "last_row": 1}]
    assert any(one.get("links") == [HOURS] for one in told)
    assert any(one.get("tables") == tables for one in told)
    for row in result["examples"]:
        assert Provenance.of(json.loads(row["provenance"])).to_json() == row["provenance"]
        left = json.loads(Provenance.without_place(row["provenance"]))
        assert not {"page", "headings", "links", "tables"} & left.keys()


def test_a_link_with_personal_data_goes_where_personal_data_goes():
    (passage,) = passages("a.md", b"Write to [us](mailto:ann.lee%40mill.example), or see [the hours](/hours).")
    ledger = Ledger()
    (redacted,) = HandlePii("redact", ["email"]).run([passage], ledger)
    assert redacted.links == ("/hours",)
    assert ledger.counts("pii").noted == {"link with personal data left out": 1}
    (tagged,) = HandlePii("tag", ["email"]).run([passage], Ledger())
    assert len(tagged.links) == 2


RECORDS = [
    {"text": "The mill opens at eight.", "title": "Mill", "metadata": {"source": "wiki", "url": HOURS}, "year": 1887},
    {"question": "Who owns the mill?", "answer": "Ida Berg owns the mill.", "tags": ["people", "mill"]},
    {"text": "The barn is red all over.", "vector": [0.5] * 1000, "note": None},
    {"name": "Otto", "age": 7},
]


def test_records_keep_what_they_say_beside_their_text():
    data = "".join(f"{json.dumps(record)}\n" for record in RECORDS).encode()
    document = read("a.jsonl", data)
    assert [section.metadata for section in document.sections] == [
        (("year", "1887"), ("source", "wiki"), ("url", HOURS)),
        (("tags", '["people", "mill"]'),),
        (),
        (),
    ]
    assert document.notes == ("'vector' of its records is longer than 2000 characters and left out",)
    mill, *_ = passages("a.jsonl", data)
    assert Passage.from_json(mill.to_json()) == mill
    assert json.loads(Provenance("rules").placed(mill).to_json())["metadata"]["url"] == HOURS


def test_rows_of_records_carry_their_metadata_and_personal_data_in_it_is_redacted(tmp_path):
    record = {
        "text": "The mill opens at 8:30 on weekdays.",
        "title": "Mill",
        "card": "4111 1111 1111 1111",
        "source": "wiki",
    }
    (tmp_path / "a.json").write_text(json.dumps([record]))
    files = files_table([SourceFile("a.json", bytes(tmp_path / "a.json"))])
    (table,) = process_documents(files, config=DatasetConfig(), by_rules=True)
    (result,) = table.to_pylist()
    assert result["examples"]
    for row in result["examples"]:
        assert json.loads(row["provenance"])["metadata"] == {"card": "[CARD]", "source": "wiki"}
        assert Provenance.of(json.loads(row["provenance"])).to_json() == row["provenance"]
        assert "metadata" not in Provenance.without_place(row["provenance"])
