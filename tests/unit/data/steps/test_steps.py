"""Steps count what they do, and do what their names say."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.data.parsed import ParsedDocument, Passage, Section
from llamafarm_ray.data.rows import Example, Message, dataset_digest
from llamafarm_ray.data.steps import (
    CheckLength,
    CheckSubstance,
    Clean,
    Deduplicate,
    Dropped,
    Ledger,
    LimitQuestions,
    SplitPassages,
    Step,
)
from llamafarm_ray.data.steps.clean import clean_text
from llamafarm_ray.data.text import normal_form, num_words, sentences_of
from llamafarm_ray.types import Digest

DIGEST = Digest.of(b"")


def document(*sections):
    return ParsedDocument(
        "a.md", DIGEST, "Title", tuple(Section(tuple(path), tuple(blocks)) for path, blocks in sections)
    )


def example(question, answer="An answer.", fact="", passage_index=0, rank=0):
    messages = (Message("user", question), Message("assistant", answer))
    return Example(messages, "a.md", DIGEST, "p", fact, passage_index, rank)


def run(step, rows):
    ledger = Ledger()
    return list(step.run(rows, ledger)), ledger.to_dict()[step.name]


class EvenOnly(Step):
    name = "even"

    def apply(self, rows):
        for row in rows:
            yield row if row % 2 == 0 else Dropped("odd")


@given(st.lists(st.lists(st.integers(0, 9))))
def test_ledgers_of_parts_add_up_to_the_ledger_of_the_whole(parts):
    whole = Ledger()
    list(EvenOnly().run([row for part in parts for row in part], whole))
    merged = Ledger()
    merged.counts("even")
    for part in parts:
        ledger = Ledger()
        list(EvenOnly().run(part, ledger))
        merged.merge(json.loads(json.dumps(ledger.to_dict())))
    assert merged.to_dict() == whole.to_dict()


def test_a_step_counts_in_out_and_dropped_with_reasons():
    rows, counts = run(EvenOnly(), [1, 2, 3, 4])
    assert rows == [2, 4]
    assert counts == {"rows_in": 4, "rows_out": 2, "dropped": {"odd": 2}}


# Clean


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("e\u0301clair", "\u00e9clair"),
        ("a\u00a0b\u2003c", "a b c"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("bell\x07 tab\tend\r\n", "bell tab end"),
        ("o\ufb03ce", "office"),
        ("\ufeffmark", "mark"),
    ],
)
def test_cleaning_text(dirty, clean):
    assert clean_text(dirty) == clean


@given(st.text())
def test_cleaning_twice_changes_nothing(text):
    assert clean_text(clean_text(text)) == clean_text(text)


def test_a_document_without_a_letter_is_dropped():
    rows, counts = run(Clean(), [document((["H"], ["---", "\u200b"])), document((["H"], ["Text.", "***"]))])
    assert [section.blocks for row in rows for section in row.sections] == [("Text.",)]
    assert counts["dropped"] == {"no text left": 1}


# Passages


def test_passages_hold_whole_sentences_of_one_section():
    text = "One two three. Four five six. Seven eight nine."
    rows, counts = run(SplitPassages(6), [document((["A"], [text]), (["B"], ["Ten."]))])
    assert [(row.headings, row.text, row.index) for row in rows] == [
        (("A",), "One two three. Four five six.", 0),
        (("A",), "Seven eight nine.", 1),
        (("B",), "Ten.", 2),
    ]
    assert counts["rows_in"] == 1
    assert counts["rows_out"] == 3


def test_blocks_stay_on_lines_of_their_own():
    rows, _ = run(SplitPassages(50), [document((["A"], ["One. Two.", "Phone: 555"]))])
    assert rows[0].text == "One. Two.\nPhone: 555"


@given(
    st.lists(st.lists(st.sampled_from(["a", "bb", "Stop.", "C."]), min_size=1, max_size=80), min_size=1),
    st.integers(1, 20),
)
def test_no_word_is_lost_and_no_passage_is_far_too_long(blocks, passage_words):
    texts = [" ".join(block) for block in blocks]
    rows, _ = run(SplitPassages(passage_words), [document(([], texts))])
    assert " ".join(row.text for row in rows).split() == " ".join(texts).split()
    assert all(num_words(row.text) <= 2 * passage_words for row in rows)


# Sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith came at 5 p.m. and left.", ["Dr. Smith came at 5 p.m. and left."]),
        ("It ends at 5 p.m. The doors close.", ["It ends at 5 p.m.", "The doors close."]),
        ("See No. 7 on p. 12. Then go.", ["See No. 7 on p. 12.", "Then go."]),
        ("It costs 3.50 euros. e.g. Tea does.", ["It costs 3.50 euros. e.g. Tea does."]),
        ("J. Doe wrote it. Ask her.", ["J. Doe wrote it.", "Ask her."]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("First line\nsecond line", ["First line", "second line"]),
    ],
)
def test_sentences(text, sentences):
    assert sentences_of(text) == sentences


@pytest.mark.timeout(20)
def test_text_without_an_end_takes_no_time_without_end():
    assert len(sentences_of("A. " * 100_000)) == 1


# Checks


def test_length_counts_the_characters_of_all_messages():
    rows = [example("Q?", "12345678"), example("Q?", "1234567"), example("Q?", "123456789")]
    kept, counts = run(CheckLength(10, 10), rows)
    assert kept == rows[:1]
    assert counts["dropped"] == {"shorter than minimum_length": 1, "longer than maximum_length": 1}


def test_no_limits_keep_everything():
    rows = [example("Q?", "x" * 10_000)]
    assert run(CheckLength(None, None), rows)[0] == rows


def test_answers_that_repeat_the_question_are_dropped():
    _, counts = run(CheckSubstance(), [example("Is it?", "Is it."), example("Q?", "..."), example("Q?", "Yes.")])
    assert counts == {
        "rows_in": 3,
        "rows_out": 1,
        "dropped": {"a turn is empty": 1, "the answer repeats the question": 1},
        "samples": {"a turn is empty": ["Q? ..."], "the answer repeats the question": ["Is it? Is it."]},
    }


# Limit


def test_the_limit_prefers_patterns_over_sections_and_spreads_over_passages():
    rows = [
        example("a1", fact="a"),
        example("a2", fact="a"),
        example("b1", fact="b"),
        example("s1", fact="s", rank=1),
        example("c1", fact="c", passage_index=1),
    ]

    def chosen(limit, phrasings=1):
        return [row.question for row in run(LimitQuestions(limit, phrasings), rows)[0]]

    assert chosen(1) == ["a1"]
    assert chosen(2) == ["a1", "c1"]
    assert chosen(3) == ["a1", "b1", "c1"]
    assert chosen(4) == ["a1", "b1", "s1", "c1"]
    assert chosen(None) == ["a1", "b1", "s1", "c1"]
    assert chosen(2, phrasings=2) == ["a1", "a2", "c1"]
    assert chosen(None, phrasings=4) == ["a1", "a2", "b1", "s1", "c1"]
    assert run(LimitQuestions(2), rows)[1]["dropped"] == {"above questions_per_doc": 2, "above phrasings": 1}


def test_a_question_repeated_in_its_document_counts_once():
    _, counts = run(LimitQuestions(5), [example("Q?"), example("q")])
    assert counts["dropped"] == {"repeated in its document": 1}


# Duplicates and digests


def test_duplicates_side_by_side_are_dropped():
    rows, counts = run(Deduplicate(), [{"key": "a", "n": 1}, {"key": "a", "n": 2}, {"key": "b", "n": 3}])
    assert [row["n"] for row in rows] == [1, 3]
    assert counts["dropped"] == {"duplicate": 1}


def test_case_spacing_and_punctuation_make_no_other_example():
    assert example("What  is DNS?").key == example("what is dns").key
    assert example("What  is DNS?").id != example("what is dns").id


@pytest.mark.parametrize(
    ("one", "other"),
    [("It costs 3.5", "It costs 35"), ("-5 degrees", "5 degrees"), ("$5", "5"), ("at 8:30", "at 83:0")],
)
def test_numbers_that_differ_are_no_duplicates(one, other):
    assert normal_form(one) != normal_form(other)


def test_roles_and_borders_of_messages_are_part_of_the_id():
    assert example("ab", "c").id != example("a", "bc").id


def test_the_dataset_digest_knows_the_split_and_not_the_order():
    rows = [{"id": name, "document": "d", "document_digest": DIGEST} for name in "abc"]
    assert dataset_digest({"train": rows}) == dataset_digest({"train": rows[::-1]})
    assert dataset_digest({"train": rows}) != dataset_digest({"train": rows[:2], "validation": rows[2:]})


def test_a_passage_knows_where_it_stands():
    (row,) = run(SplitPassages(9), [document((["A", "B"], ["Text."]))])[0]
    assert row == Passage("a.md", DIGEST, "Title", ("A", "B"), "Text.", 0)


def test_a_passage_is_shown_under_its_title_and_headings_without_repetition():
    one = Passage("a.md", Digest.of(b"a"), "The Mill", ("The Mill", "Hours"), "It opens at nine.", 0)
    assert one.with_headings == "The Mill, Hours\nIt opens at nine."
    assert replace(one, title="", headings=()).with_headings == "It opens at nine."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u0e44\u0e21\u0e49", "\u0e44\u0e21\u0e48"),  # Thai: wood, not
        ("\u0e21\u0e32", "\u0e21\u0e35\u0e32"),
        ("\u0915\u093e\u0932\u093e", "\u0915\u0940\u0932\u093e"),  # Hindi, two vowel signs
        ("\u0939\u0902\u0938", "\u0939\u0938"),
    ],
)
def test_vowel_and_tone_signs_tell_words_apart_and_are_no_borders(one, other):
    assert normal_form(one) != normal_form(other)
    assert normal_form(one) == one
    assert len(normal_form("\u0915\u093f\u0924\u093e\u092c \u0926\u0938").split()) == 2


def test_an_accent_is_the_same_written_as_a_mark_and_a_sign_of_emoji_is_none():
    assert normal_form("cafe\u0301") == normal_form("caf\u00e9")
    assert normal_form("gold 1\ufe0f") == normal_form("gold 1")
