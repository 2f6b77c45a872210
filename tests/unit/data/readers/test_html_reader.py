"""Web pages give their main text below its headings, and nothing of what stands around it."""

import email.message
import time

import pytest
from document_files import blocks, outline, read, zipped

from llamafarm_ray.data.readers import BrokenDocumentError, EncryptedDocumentError, OversizedDocumentError

TEXT = "The mill is a museum."


def page(html):
    return blocks("a.html", html.encode())


def test_html_keeps_headings_lists_definitions_and_tables():
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


@pytest.mark.parametrize(
    "around",
    [
        "<nav>Home</nav>",
        "<header><img alt=x>Logo <a href=/>Home</a></header>",
        "<footer>All rights reserved.</footer>",
        "<div role='navigation'>Home</div>",
        "<div role='banner'>Acme</div>",
        "<div id='cookie-bar'><p>We use cookies to improve your visit.</p><button>Accept</button></div>",
        "<div class='gdpr-consent'>Your privacy matters.</div>",
        "<button>Buy now</button>",
        "<form><input value='x'><select><option>German</select></form>",
        "<p style='color: red; display: none'>Hidden.</p>",
        "<p hidden>Hidden.</p>",
        "<p aria-hidden='true'>Hidden.</p>",
        "<span class='sr-only'>Skip to content</span>",
        "<ul><li><a href=a>News</a><li><a href=b>Visit</a><li><a href=c>Shop</a></ul>",
        "<p><span>Available Languages: </span><a href=de hreflang=de>de</a> | <a href=en hreflang=en>en</a></p>",
        "<table><tr><td>Prev</td><td>Up</td><td>Chapter 4. Oil</td></tr></table>",
        "<div class=navheader><a accesskey=p href=a>Zur\u00fcck</a> Teil I <a accesskey=n href=b>Weiter</a></div>",
        "<p><a rel=prev href=a>Oil</a> <a rel=next href=b>Tar</a></p>",
        "<aside>Related pages</aside>",
        "<svg><text>drawing</text></svg>",
    ],
)
def test_what_stands_around_the_text_is_left_out(around):
    assert page(f"{around}<h1>Mill</h1><p>{TEXT}</p>{around}") == [TEXT]


def test_the_main_element_holds_the_text():
    assert page(f"<div>Three offers of the week.</div><main><p>{TEXT}</p></main><div>Call us.</div>") == [TEXT]


def test_words_and_links_inside_the_text_stay():
    kept = [
        "<p>The authors are <a href=a>Anna Berg</a>, <a href=b>Tom Lee</a> and <a href=c>Eva Stone</a>.</p>",
        "<p>The <code>index</code> holds the <em>next</em> commit, see <a href=a>Contents</a> for more.</p>",
        "<article><header><h2>Oil</h2><p>By Anna Berg</p></header><p>Oil floats.</p></article>",
        "<p class='with-sidebar'>The sidebar of the menu shows the footer.</p>",
    ]
    assert page("".join(kept)) == [
        "The authors are Anna Berg, Tom Lee and Eva Stone.",
        "The index holds the next commit, see Contents for more.",
        "By Anna Berg",
        "Oil floats.",
        "The sidebar of the menu shows the footer.",
    ]


def test_signs_beside_headings_and_marks_of_notes_are_no_text():
    html = (
        "<h1>Widgets<a class='headerlink' href='#w'>\u00b6</a></h1><h2>Oil <a href='#o'>\u00a7</a></h2>"
        "<p>Oil<sup><a role='doc-noteref' href='#n'>1</a></sup> floats.</p>"
    )
    document = read("a.html", html.encode())
    assert document.title == "Widgets"
    assert outline(document) == {("Widgets", "Oil"): ["Oil floats."]}


def test_the_heading_of_a_page_may_stand_in_its_header():
    html = f"<header><h1>Mill</h1><nav>Home</nav>Since 1900</header><p>{TEXT}</p>"
    assert outline(read("a.html", html.encode())) == {("Mill",): [TEXT]}


def test_code_is_a_block_of_its_own_with_its_lines():
    html = "<p>To update the system, run</p><pre><span>frob</span> --all\n  --now\n</pre><p>It takes a minute.</p>"
    assert page(html) == ["To update the system, run", "```\nfrob --all\n  --now\n```", "It takes a minute."]


@pytest.mark.parametrize(
    "table",
    [
        "<table><tr><td>The gate opens at 08:00.</td><td>The mill is a museum.</td></tr></table>",
        "<table role='none'><tr><td>The gate opens at 08:00.</td></tr><tr><td>The mill is a museum.</td></tr></table>",
        "<table><td>The gate opens at 08:00.<table><tr><td>The mill is a museum.</td></tr></table></table>",
    ],
)
def test_tables_that_lay_out_the_page_are_read_cell_by_cell(table):
    assert page(table) == ["The gate opens at 08:00.", "The mill is a museum."]


def test_cells_of_a_nested_table_are_read_once():
    inner = "<table><tr><td>Fax</td><td>777</td></tr></table>"
    assert page(f"<table><tr><td>Phone</td><td>555</td></tr><tr><td>Other</td><td>{inner}</td></tr></table>") == [
        "Phone",
        "555",
        "Other",
        "Fax: 777",
    ]


def test_a_cell_over_several_rows_or_columns_stands_in_each():
    html = """<table><caption>Prices</caption><tr><th>Ticket<th>Price<th>Valid</tr>
    <tr><td rowspan=2>Day<td>12<td>Monday<tr><td>14<td>Sunday<tr><td>Year<td colspan=2>on request</table>"""
    assert page(html) == [
        "Prices",
        "Day \u2013 Price: 12; Valid: Monday",
        "Day \u2013 Price: 14; Valid: Sunday",
        "Year \u2013 Price: on request; Valid: on request",
    ]


def test_definitions_keep_their_terms():
    html = """<dl><dt>name:</dt><dd>The name of a frame.</dd><dt>color</dt><dt>colour</dt><dd><p>Its tint.</p>
    <p>Any.</p></dd>
    <dt>run</dt><dd><pre>frob</pre></dd><dt>alone</dt></dl>"""
    assert page(html) == [
        "name: The name of a frame.",
        "color, colour: Its tint.",
        "Any.",
        "run",
        "```\nfrob\n```",
        "alone",
    ]


def test_reading_aids_of_japanese_words_are_left_out():
    assert page("<p><ruby>\u6f22<rp>(</rp><rt>\u304b\u3093</rt><rp>)</rp></ruby>\u5b57\u3067\u3059\u3002</p>") == [
        "\u6f22\u5b57\u3067\u3059\u3002"
    ]


def test_an_encoding_that_is_recognized_is_noted():
    document = read("a.html", "<p>Das Caf\u00e9 der M\u00fchle \u00f6ffnet um acht.</p>".encode("cp1252"))
    assert document.notes == ("read as cp1252",)
    assert outline(document) == {(): ["Das Caf\u00e9 der M\u00fchle \u00f6ffnet um acht."]}


@pytest.mark.parametrize(
    ("declaration", "encoding"),
    [
        ('<meta charset="iso-8859-1">', "cp1252"),
        ('<meta http-equiv="content-type" content="text/html; charset=utf-8">', "utf-8"),
        ('<?xml version="1.0" encoding="windows-1252"?>', "cp1252"),
        ('<meta charset="no-such-thing">', "utf-8"),
        ("", "utf-16"),
    ],
)
def test_html_uses_the_encoding_it_declares(declaration, encoding):
    data = f"{declaration}<p>Caf\u00e9 \u201cMill\u201d</p>".encode(encoding)
    assert blocks("a.html", data) == ["Caf\u00e9 \u201cMill\u201d"]


def test_empty_elements_of_xhtml_are_empty():
    html = """<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml">
    <head><title/><script src="x"/></head><body><p><a id="top"/>Caf&eacute; &amp; mill</p></body></html>"""
    assert blocks("a.xhtml", html.encode()) == ["Caf\u00e9 & mill"]


def test_a_long_page_on_one_line_takes_time_by_its_length():
    html = f"<p>{TEXT} <b>Yes.</b></p>" * 5_000
    start = time.process_time()
    assert len(page(html)) == 5_000
    assert time.process_time() - start < 3.0


def test_html_nested_too_deep_and_with_too_many_tags_is_refused(monkeypatch):
    assert page("<div>" * 1000 + TEXT + "</div>" * 1000) == [TEXT]
    with pytest.raises(BrokenDocumentError, match=r"deeper than 2,048"):
        page("<div>" * 20_000 + TEXT)
    monkeypatch.setattr("llamafarm_ray.data.readers.web.decode._MAX_TAGS", 10)
    with pytest.raises(OversizedDocumentError, match="tags"):
        page("<p>x" * 11)


def test_a_saved_page_is_read_like_the_page():
    message = email.message.EmailMessage()
    message["Subject"] = "Saved"
    message.set_content(f"<title>Mill</title><p>{TEXT} Caf\u00e9.</p>", subtype="html", charset="iso-8859-1")
    message.add_related(b"\x89PNG", "image", "png")
    document = read("a.mhtml", message.as_bytes())
    assert document.title == "Mill"
    assert outline(document) == {(): [f"{TEXT} Caf\u00e9."]}


# EPUB

CONTAINER = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
OPF = """<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>
<dc:title>The Mill</dc:title></metadata><manifest>
<item id="b" href="b%20b.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/>
<item id="toc" href="toc.xhtml" media-type="application/xhtml+xml" properties="nav"/></manifest>
<spine><itemref idref="toc"/><itemref idref="a"/><itemref idref="b"/></spine></package>"""


def book(**parts):
    return zipped(
        {
            "META-INF/container.xml": CONTAINER,
            "OEBPS/book.opf": OPF,
            "OEBPS/a.xhtml": "<h1>One</h1><p>It begins.</p>",
            "OEBPS/b b.xhtml": "<h1>Two</h1><p>It ends.</p>",
            "OEBPS/toc.xhtml": "<p>One 1, two 2</p>",
            **parts,
        }
    )


def test_a_book_is_read_in_the_order_of_its_spine():
    document = read("a.epub", book())
    assert document.title == "The Mill"
    assert outline(document) == {("One",): ["It begins."], ("Two",): ["It ends."]}


def test_a_book_with_copy_protection_is_named_as_such():
    protected = '<e><CipherReference URI="OEBPS/a.xhtml"/></e>'
    with pytest.raises(EncryptedDocumentError, match="copy protection"):
        read("a.epub", book(**{"META-INF/encryption.xml": protected}))
    fonts = '<e><CipherReference URI="OEBPS/font.otf"/></e>'
    assert read("a.epub", book(**{"META-INF/encryption.xml": fonts})).title == "The Mill"
