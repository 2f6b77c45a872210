"""An answer is supported by a passage that has its words, numbers and names."""

import pytest

from llamafarm_ray.text.support import support, unsupported_parts

PASSAGE = (
    "The harbor library opens at 8:00 and closes at 20:30. Membership costs 1,250 euros a year. "
    "The vault is kept at -18 degrees by Otto Braun, who repairs the K1 lock. Opening hours differ on holidays."
)


@pytest.mark.parametrize(
    "answer",
    [
        "The harbor library opens at 08:00.",
        "It costs 1250 euros a year.",
        "1.250 euros",
        "Otto Braun repaired the K1 locks.",
        "The vault is kept at \u221218 degrees.",
        "Libraries close at 20:30.",
    ],
)
def test_the_passages_own_words_support_an_answer(answer):
    assert support(answer, PASSAGE) == 1.0
    assert unsupported_parts(answer, PASSAGE) == []


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("The harbor library opens at 9:00.", "9:00"),
        ("The vault is kept at 18 degrees.", "18"),
        ("Membership costs 125 euros a year.", "125"),
        ("The vault is kept by Anna Braun.", "Anna"),
        ("Otto Braun repairs the K2 lock.", "K2"),
    ],
)
def test_a_number_or_name_that_the_passage_lacks_ends_it(answer, missing):
    assert support(answer, PASSAGE) == 0.0
    assert unsupported_parts(answer, PASSAGE) == [missing.casefold()]


def test_the_share_of_content_words_counts():
    assert support("The library serves excellent coffee.", PASSAGE) == pytest.approx(1 / 4)
    assert support("The library opens with excellent coffee.", PASSAGE) == pytest.approx(2 / 5)
    assert unsupported_parts("The library serves coffee.", PASSAGE) == ["serves", "coffee"]


@pytest.mark.parametrize("answer", ["", "...", "It is so."])
def test_an_answer_that_says_nothing_is_not_supported(answer):
    assert support(answer, PASSAGE) == 0.0


def test_german_nouns_are_no_names():
    passage = "Die Bibliothek hat lange Öffnungszeiten. Der Eintritt kostet für Kinder 3,50 Euro."
    assert support("Der Eintritt kostet 3.5 Euro.", passage) == 1.0
    assert 0 < support("Der Preis für Kinder beträgt 3,50 Euro.", passage) < 1
    assert support("Der Eintritt kostet 4 Euro.", passage) == 0.0


@pytest.mark.parametrize(
    ("passage", "good", "bad"),
    [
        (
            "図書館は8時に開きます。料金は40ユーロです。",
            "料金は40ユーロです。",
            "料金は50ユーロです。",
        ),
        ("تفتح المكتبة في الساعة ٨", "المكتبة 8", "المكتبة 9"),
        ("Библиотека открывается в 8.", "Библиотеки, 8", "Музей 9"),
    ],
    ids=["Japanese", "Arabic", "Russian"],
)
def test_other_scripts_are_read_too(passage, good, bad):
    assert support(good, passage) == 1.0
    assert support(bad, passage) < 0.5


@pytest.mark.parametrize(
    ("one", "other"), [("form", "fort"), ("internal", "interest"), ("coast", "cost"), ("monday", "sunday")]
)
def test_words_that_only_begin_alike_are_not_the_same(one, other):
    assert support(one, other) == 0.0


def test_ranges_have_no_negative_end():
    assert support("It is 60 % faster.", "Version 3 is 10-60 % faster; it is fast.") == 1.0
