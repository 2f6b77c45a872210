"""Passages know their language, are split and counted by it, and rules for English leave the others alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.data.build.harvest import Harvest
from llamafarm_ray.data.generation.rules import GenerateByRules
from llamafarm_ray.data.readers import reader_for
from llamafarm_ray.data.steps import Clean, DetectLanguage, Ledger, SplitPassages
from llamafarm_ray.data.steps.clean import clean_text
from llamafarm_ray.data.text import cut_words, language_of, num_words, sentences_of
from llamafarm_ray.errors import InputError

ENGLISH = "The library opens at eight. The entrance fee is four euros."
GERMAN = "Die Bibliothek öffnet um acht Uhr. Sie wurde am 3. Mai 1910 eröffnet und kostet z. B. vier Euro."
JAPANESE = "図書館は八時に開きます。料金は四十ユーロです。「本当ですか?」と聞いた。はい。"
CHINESE = "图书馆八点开门。费用是四十欧元!真的吗?他说:“好。”然后走了。"
ARABIC = "تفتح المكتبة في الثامنة. هل هذا صحيح؟ نعم، صحيح."
THAI = "ห้องสมุดเปิดแปดโมง ค่าบริการสี่สิบยูโร ปิดวันที่ 3 มกราคม"


def passages(text, words=120):
    rows = [reader_for("a.txt").read(text.encode(), "a.txt")]
    for step in (Clean(), DetectLanguage(), SplitPassages(words)):
        rows = list(step.run(rows, Ledger()))
    return rows


def generate(text):
    ledger = Ledger()
    return list(GenerateByRules().run(passages(text), ledger)), ledger


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        (JAPANESE, "ja"),
        (CHINESE, "zh"),
        (ARABIC, "ar"),
        (THAI, "th"),
        ("Il museo apre alle otto e chiude alle sei.", "it"),
        ("Библиотека открывается в восемь.", "ru"),
        ("42", ""),
        ("https://example.org/bibliothek/die/ist/das", ""),
        ("", ""),
    ],
)
def test_the_language_of_a_text(text, code):
    assert language_of(text) == code


def test_a_short_text_is_in_the_language_around_it():
    assert language_of("Adult: 12 euros; Child: 6 euros", "en") == "en"
    assert language_of("Name: Anna Müller", "en") == "en"
    assert language_of(GERMAN, "en") == "de"


def test_a_long_text_takes_no_longer_than_its_start():
    assert language_of(f"{ENGLISH} " * 200_000) == "en"


@pytest.mark.parametrize(
    ("text", "language", "sentences"),
    [
        (
            JAPANESE,
            "",
            ["図書館は八時に開きます。", "料金は四十ユーロです。", "「本当ですか?」と聞いた。", "はい。"],
        ),
        (CHINESE, "", ["图书馆八点开门。", "费用是四十欧元!", "真的吗?", "他说:“好。”", "然后走了。"]),
        (ARABIC, "", ["تفتح المكتبة في الثامنة.", "هل هذا صحيح؟", "نعم، صحيح."]),
        (THAI, "", ["ห้องสมุดเปิดแปดโมง", "ค่าบริการสี่สิบยูโร", "ปิดวันที่ 3 มกราคม"]),
        ("पुस्तकालय आठ बजे खुलता है। शुल्क 3.50 यूरो है।", "", ["पुस्तकालय आठ बजे खुलता है।", "शुल्क 3.50 यूरो है।"]),
        (
            GERMAN,
            "de",
            ["Die Bibliothek öffnet um acht Uhr.", "Sie wurde am 3. Mai 1910 eröffnet und kostet z. B. vier Euro."],
        ),
    ],
)
def test_sentences_by_language(text, language, sentences):
    assert sentences_of(text, language) == sentences


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The well-known 3.50 euros, it's", 5),
        ("図書館は八時に開きます。", 11),
        ("图书馆八点开门。", 7),
        ("Ray 2.60 は速い。", 5),
        ("กำลังดี", 5),  # with vowel and tone marks on three of its letters
        ("تفتح المكتبة في الثامنة.", 4),
        ("도서관은 여덟 시에 문을 엽니다.", 5),
    ],
)
def test_words_are_counted_by_script(text, count):
    assert num_words(text) == count


def test_passages_of_scripts_without_spaces_are_bounded_and_get_none():
    rows = passages(JAPANESE * 20, words=25)
    assert all(num_words(row.text) <= 25 for row in rows)
    assert rows[0].text == "図書館は八時に開きます。料金は四十ユーロです。"
    rows = passages("図書館" * 500, words=30)
    assert [num_words(row.text) for row in rows] == [60] * 25


def test_a_foreign_word_changes_no_other_sentence():
    assert sentences_of("The word 図書館 means library. J. Doe wrote it.") == [
        "The word 図書館 means library.",
        "J. Doe wrote it.",
    ]


def test_joiners_that_are_spelling_stay():
    assert clean_text("می\u200cروم a\u200cb \u200c") == "می\u200cروم ab"


@given(
    st.text(st.sampled_from("aB .!?。\n\t図は「」!กา3،؟।é\u2013\u2029"), max_size=200),
    st.sampled_from(["", "en", "de", "ru", "ja", "xx"]),
)
def test_splitting_loses_nothing_but_spaces(text, language):
    assert "".join("".join(sentences_of(text, language)).split()) == "".join(text.split())


@given(st.text(st.sampled_from("ab .。図はกา3"), max_size=200), st.integers(1, 9))
def test_cutting_loses_nothing_but_spaces(text, limit):
    assert "".join("".join(cut_words(text, limit)).split()) == "".join(text.split())


@given(st.text(st.sampled_from("ab 図はกา3"), max_size=200), st.integers(1, 9))
def test_cut_pieces_are_bounded(text, limit):
    assert all(num_words(piece) <= limit for piece in cut_words(text, limit))


@pytest.mark.parametrize(
    ("text", "name"), [(GERMAN, "German"), (JAPANESE, "Japanese"), (CHINESE, "Chinese"), (ARABIC, "Arabic")]
)
def test_rules_for_english_leave_other_languages_alone(text, name):
    examples, ledger = generate(text)
    assert examples == []
    assert ledger.counts("generate").dropped == {f"no rules for {name}": 1}


def test_an_english_passage_among_others_still_gives_questions():
    examples, ledger = generate(f"{GERMAN}\n\nPRICES\n\n{ENGLISH}")
    assert {example.answer for example in examples} >= {"The entrance fee is four euros."}
    assert ledger.counts("generate").dropped == {"no rules for German": 1}


def test_documents_in_other_languages_alone_are_an_error_that_says_what_to_do():
    harvest = Harvest(digests={"a.txt": "sha256:0", "b.txt": "sha256:1"})
    for text in (GERMAN, JAPANESE):
        harvest.ledger.merge(generate(text)[1].to_dict())
    with pytest.raises(InputError, match=r"in German and Japanese.* for English only") as caught:
        harvest.require_examples("docs")
    assert "qa_generation.model" in caught.value.hint
