"""Plain text keeps its headings apart from its paragraphs, and its wrapped lines become whole."""

import pytest

from llamafarm_ray.data.readers import reader_for


def outline(text, path="a.txt"):
    document = reader_for(path).read(text.encode(), path)
    return {section.headings: list(section.blocks) for section in document.sections}


def test_text_without_a_full_stop_is_text():
    assert outline("The library opens at eight") == {(): ["The library opens at eight"]}
    assert outline("図書館は八時に開きます。料金は四十ユーロです。") == {
        (): ["図書館は八時に開きます。料金は四十ユーロです。"]
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Free Entry\nThe owner may not refuse a guest.",
            {("Free Entry",): ["The owner may not refuse a guest."]},
        ),
        (
            "The Club\n\nOpening Hours\n\nThe club opens at eight.\n\nPRICES\n\nEntry is free.",
            {("The Club", "Opening Hours"): ["The club opens at eight."], ("The Club", "PRICES"): ["Entry is free."]},
        ),
        ("Title\n=====\nText here.\n\nPart\n----\nMore.", {("Title",): ["Text here."], ("Title", "Part"): ["More."]}),
        (
            "Handbook\n\n1. Opening hours\n\nThe club opens at eight.\n\n1.1 Holidays\n\nIt is closed then.",
            {
                ("Handbook", "1. Opening hours"): ["The club opens at eight."],
                ("Handbook", "1. Opening hours", "1.1 Holidays"): ["It is closed then."],
            },
        ),
    ],
)
def test_headings_are_not_glued_to_the_body(text, expected):
    assert outline(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "The owner may not refuse a guest\nwho has paid for the day.",  # a wrapped line
        "Anna Smith: keeper\nBen Jones: guide",  # definitions
        "The museum of the town of Saint Malo\nOpens at eight.",  # not in title case
        "Anna Smith was here.\n\n5 people came to the mill yesterday\n\nThey paid for the day.",
        "Dear Guest,\nThe owner may not refuse a guest.",
    ],
)
def test_what_only_resembles_a_heading_is_text(text):
    assert list(outline(text)) == [()]


def test_divided_words_become_whole():
    text = (
        "The libra-\nry of Saint-\nMalo is a well-\nknown place, and co\u2010\nlour fills it.\n"
        "Never re-\nsign, says the re-sign."
    )
    assert outline(text) == {
        (): ["The library of Saint-Malo is a well-known place, and colour fills it. Never re-sign, says the re-sign."]
    }


def test_lines_of_scripts_without_spaces_are_joined_without_one():
    assert outline("図書館は八時に\n開きます。\n料金は\n四十ユーロです。") == {
        (): ["図書館は八時に開きます。料金は四十ユーロです。"]
    }


def test_questions_stand_with_their_answers():
    text = (
        "FAQ\n\nQ: May I bring\na dog?\nA: Yes, on a\nlead.\nQ: Is it free?\nA: No.\n\n"
        "Q1. When do you open?\n\nA1. At eight.\n\nWe close at five, as the sign says."
    )
    assert outline(text) == {
        ("FAQ",): [
            "Q: May I bring a dog? A: Yes, on a lead.",
            "Q: Is it free? A: No.",
            "Q1. When do you open? A1. At eight.",
            "We close at five, as the sign says.",
        ]
    }
