import pytest

from llamafarm_ray.evaluation.metrics import contains, exact_match, normalized_words, numeric_match, token_f1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Eiffel Tower!", ["eiffel", "tower"]),
        ("don't, well-known", ["dont", "wellknown"]),
        ("U.S.", ["us"]),
        ("1,000 at 3.5 and 8:00, -5", ["1000", "at", "3.5", "and", "8:00", "-5"]),
        ("10-12 days; COVID-19", ["10", "12", "days", "covid", "19"]),
        ("東京。2024年", ["東", "京", "2024", "年"]),
        ("«Москва» - это…", ["москва", "это"]),
        ("the", ["the"]),
        ("", []),
        ("?!", []),
    ],
)
def test_words_that_are_compared(text, words):
    assert normalized_words(text) == words


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        ("the Paris.", ["Paris"], 1),
        ("Paris, France", ["Paris"], 0),
        ("москва", ["Москва!"], 1),
        ("東京", ["東京。"], 1),
        ("für", ["fär"], 0),
        ("-5", ["5"], 0),
        ("3.5", ["35"], 0),
        ("1,000", ["1000"], 1),
        ("🙂", ["🙂"], 1),
        ("🙂", ["🙁"], 0),
        ("", [""], 1),
        ("", ["x"], 0),
        ("x", [], 0),
    ],
)
def test_exact_match(answer, accepted, expected):
    assert exact_match(answer, accepted) == expected


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        # 2 of 3 words said are right, 2 of 2 accepted are said.
        ("the Eiffel Tower Paris", ["Eiffel Tower"], 0.8),
        ("Tower Eiffel", ["Eiffel Tower"], 1),
        ("x", ["y", "x z"], 2 / 3),
        # 2 of 3 characters on both sides.
        ("東京都", ["東京市"], 2 / 3),
        ("", [""], 1),
        ("", ["x"], 0),
        ("x", [""], 0),
    ],
)
def test_f1_of_words(answer, accepted, expected):
    assert token_f1(answer, accepted) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        ("It is Paris, of course.", ["paris"], 1),
        ("I know.", ["no"], 0),
        ("It costs 1,200 euros.", ["12"], 0),
        ("It costs 1,200 euros.", ["1200 euros"], 1),
        ("It weighs 3.5 kg", ["3"], 0),
        ("at -5 degrees", ["5"], 0),
        ("It takes 10-12 days", ["12 days"], 1),
        ("a well-known farm", ["well known farm"], 1),
        ("首都は東京です", ["東京"], 1),
        ("столица — Москва", ["москва"], 1),
        ("anything", [""], 0),
        ("", [""], 0),
        ("", ["x"], 0),
        ("one two three", ["two four", "three"], 1),
    ],
)
def test_an_answer_is_right_if_it_holds_an_accepted_one(answer, accepted, expected):
    assert contains(answer, accepted) == expected


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        ("5 + 7 = 12.", ["12"], 1),
        ("12 of 13", ["12"], 0),
        ("$1,234.50", ["1234.5"], 1),
        ("1.234,50 Euro", ["1234.50"], 1),
        ("3,5", ["3.5"], 1),
        ("1,000", ["1000"], 1),
        ("-5", ["5"], 0),
        ("\u22125", ["-5"], 1),
        ("pages 3-5", ["5"], 1),
        ("٤٢", ["42"], 1),
        ("\uff14\uff12", ["42"], 1),
        ("1e3", ["1000"], 1),
        ("8:00", ["8:00"], 1),
        ("8:00", ["9:00"], 0),
        ("no number", ["1"], 0),
        ("1", ["none"], 0),
        ("9" * 400, ["1"], 0),
        ("1e999", ["1"], 0),
    ],
)
def test_the_last_number_counts(answer, accepted, expected):
    assert numeric_match(answer, accepted) == expected
