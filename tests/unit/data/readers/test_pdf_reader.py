"""PDF files give their paragraphs, tables and headings in reading order, and say what could not be read."""

import pytest
from document_files import blocks, outline, pdf, pdf_line, read
from PIL import Image

from llamafarm_ray.data.readers import BrokenDocumentError, EmptyDocumentError, EncryptedDocumentError

LONG = "The workshop opens at nine and everybody who wants to come is asked to bring a friend."


def pages_of(*pages, **options):
    def write(document):
        for lines in pages:
            document.add_page()
            for text in lines:
                pdf_line(document, text)

    return pdf(write, **options)


def test_wrapped_and_divided_lines_are_joined_below_their_headings():
    def write(document):
        document.add_page()
        pdf_line(document, "Handbook", size=20)
        pdf_line(document, "The workshop opens at nine and everybody who wants to come is wel-")
        pdf_line(document, "come on every day of the week.")
        pdf_line(document, "Opening hours", size=15)
        pdf_line(document, "It is closed at night.")

    document = read("a.pdf", pdf(write))
    assert document.title == "Handbook"
    assert outline(document) == {
        ("Handbook",): [
            "The workshop opens at nine and everybody who wants to come is welcome on every day of the week."
        ],
        ("Handbook", "Opening hours"): ["It is closed at night."],
    }


def test_a_hyphen_stays_where_the_document_writes_one():
    lines = ["A well-known shop sells paint for every house in the town, and its well-", "known owner is Anna Berg."]
    assert blocks("a.pdf", pages_of(lines)) == [
        "A well-known shop sells paint for every house in the town, and its well-known owner is Anna Berg."
    ]


@pytest.mark.parametrize("first", ["The harbour office is a part of the", "The harbour office now belongs"])
def test_a_long_line_elsewhere_does_not_cut_the_sentences_of_narrow_paragraphs(first):
    lines = [first, "Northern Port Authority of the coast.", "", LONG]
    assert blocks("a.pdf", pages_of(lines)) == [f"{first} Northern Port Authority of the coast.", LONG]


def test_marks_of_footnotes_are_no_text():
    def write(document):
        document.add_page()
        document.write(8, "The mill is a museum.")
        document.char_vpos = "SUP"
        document.write(8, "12")
        document.char_vpos = "LINE"
        document.write(8, " It has room for 30 guests in Hall2.")

    assert blocks("a.pdf", pdf(write)) == ["The mill is a museum. It has room for 30 guests in Hall2."]


def test_the_number_of_a_note_stands_apart_from_its_text():
    def write(document):
        document.add_page()
        document.set_font_size(6)
        document.write(8, "12")
        document.set_font_size(12)
        document.write(8, "You may knock at the door of the mill.")

    assert blocks("a.pdf", pdf(write)) == ["12 You may knock at the door of the mill."]


def test_short_lines_that_stand_alone_stay_apart():
    lines = [LONG, "", "Anna Berg, keeper", "Tom Lee, boats", "Eva Stone, library"]
    assert blocks("a.pdf", pages_of(lines))[1:] == ["Anna Berg, keeper", "Tom Lee, boats", "Eva Stone, library"]


def test_a_paragraph_goes_on_over_a_page_and_belongs_to_the_page_where_it_begins():
    data = pages_of([LONG, "The last line of this page goes on"], ["with the next one. It ends there.", "", LONG])
    document = read("a.pdf", data)
    assert [(section.page, section.blocks) for section in document.sections] == [
        (1, (f"{LONG} The last line of this page goes on with the next one. It ends there.",)),
        (2, (LONG,)),
    ]


@pytest.mark.parametrize("number", ["{} of 4", "Page {} of 4", "- {} -", "{}"])
def test_running_heads_of_several_lines_and_page_numbers_are_dropped(number):
    names = ["one", "two", "three", "four"]
    data = pages_of(
        *(
            ["Rules of the hall", "Version 2", f"Page number {name} has a sentence of its own.", number.format(i + 1)]
            for i, name in enumerate(names)
        )
    )
    assert blocks("a.pdf", data) == [f"Page number {name} has a sentence of its own." for name in names]


def test_roman_page_numbers_are_dropped():
    texts = ["First comes the preface.", "Then the thanks.", "And a map of the town."]
    numbers = ["iii", "iv", "v"]
    assert blocks("a.pdf", pages_of(*map(list, zip(texts, numbers, strict=True)))) == texts


def test_two_columns_are_read_one_after_the_other():
    left = ["The ferry leaves the old", "harbour at eight in the", "morning and comes back", "before the night begins."]
    right = [
        "Tickets are sold on board",
        "by the crew. A ticket for",
        "the whole day costs nine",
        "euros and fifty cents.",
    ]

    def write(document):
        document.add_page()
        pdf_line(document, "Ferry news", size=20)
        for index, pair in enumerate(zip(left, right, strict=True)):
            for x, text in zip((10, 80), pair, strict=True):
                document.set_font("helvetica", size=11)
                document.text(x, 40 + 6 * index, text)

    assert blocks("a.pdf", pdf(write)) == [" ".join(left), " ".join(right)]


def test_tables_become_rows():
    rows = [("Ticket", "Price", "Valid"), ("Adult", "12 euros", "one day"), ("Child", "6 euros", "one day")]

    def write(document):
        document.add_page()
        pdf_line(document, LONG)
        for index, row in enumerate(rows):
            for x, text in zip((10, 60, 110), row, strict=True):
                document.text(x, 40 + 6 * index, text)

    assert blocks("a.pdf", pdf(write)) == [
        LONG,
        "Adult \u2013 Price: 12 euros; Valid: one day",
        "Child \u2013 Price: 6 euros; Valid: one day",
    ]


def titled(title, heading):
    def write(document):
        document.set_title(title)
        document.add_page()
        pdf_line(document, heading, size=18)
        pdf_line(document, "The Lock Keeper's Manual", size=14)
        pdf_line(document, LONG)

    return read("a.pdf", pdf(write)).title


def test_the_title_is_the_documents_property_or_the_largest_line_that_can_be_one():
    assert titled("Locks and Keys", "Contents") == "Locks and Keys"
    assert titled("Microsoft Word - draft3.doc", "Contents") == "The Lock Keeper's Manual"
    assert titled("untitled", "Table of Contents") == "The Lock Keeper's Manual"
    assert titled("", "A Larger Line") == "A Larger Line"


def test_a_table_of_contents_is_no_text():
    def write(document):
        document.add_page()
        pdf_line(document, "Contents", size=18)
        pdf_line(document, "1 Locks 3")
        pdf_line(document, "1.1 Keys . . . . . . . . . . . 4")
        pdf_line(document, "Locks", size=18)
        pdf_line(document, LONG)

    assert blocks("a.pdf", pdf(write)) == [LONG]


def test_a_pdf_of_nothing_but_headers_is_no_scan():
    with pytest.raises(EmptyDocumentError, match="but headers"):
        read("a.pdf", pages_of(*[["Rules of the hall", str(number)] for number in range(1, 5)]))


def test_scans_are_reported_with_the_way_out():
    def write(document, *, text):
        if text:
            document.add_page()
            pdf_line(document, LONG)
        document.add_page()
        document.image(Image.new("L", (40, 60)), x=0, y=0, w=210, h=297)

    with pytest.raises(EmptyDocumentError, match=r"1 of its 1 pages are scans.*dataset\.source\.ocr"):
        read("a.pdf", pdf(lambda document: write(document, text=False)))
    mixed = read("a.pdf", pdf(lambda document: write(document, text=True)))
    assert mixed.notes == ("1 of 2 pages are scans without text.",)
    with pytest.raises(EmptyDocumentError, match="no text in it"):
        read("a.pdf", pdf(lambda document: document.add_page()))


def test_an_encrypted_pdf_is_named_as_such():
    def write(document):
        document.set_encryption(owner_password="a", user_password="b")  # noqa: S106
        document.add_page()
        pdf_line(document, "Secret.")

    with pytest.raises(EncryptedDocumentError, match="encrypted"):
        read("a.pdf", pdf(write))


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.7\n%%EOF"])
def test_a_broken_pdf_is_named_as_such(data):
    with pytest.raises(BrokenDocumentError, match="not a valid PDF"):
        read("a.pdf", data)


def test_a_scan_with_a_stamped_page_number_is_a_scan_and_a_title_on_a_picture_is_text():
    def write(document, *texts):
        document.add_page()
        document.image(Image.new("L", (40, 60)), x=0, y=0, w=210, h=297)
        document.set_font("helvetica", size=9)
        for place, text in texts:
            document.text(20, place, text)

    with pytest.raises(EmptyDocumentError, match=r"1 of its 1 pages are scans"):
        read("a.pdf", pdf(lambda document: write(document, (290, "Page 3 of 12"), (10, "Scanned by ScanTool"))))
    assert blocks("a.pdf", pdf(lambda document: write(document, (150, "The mill opens at nine."))))
