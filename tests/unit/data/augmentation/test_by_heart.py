"""Rows that ask the facts of a passage by heart."""

from collections import Counter
from types import SimpleNamespace

import pytest

from llamafarm_ray.data.augmentation.by_heart import QUESTIONS_PER_ROW, rows_by_heart
from llamafarm_ray.data.augmentation.with_passages import rows_with_passages
from llamafarm_ray.data.build import pipeline
from llamafarm_ray.data.text.near_words import NearWords

HOURS, PRICES = "The mill opens at nine. It closes at five.", "A tour of the mill costs four euros."
ANSWER = "Residents who show a library card get 10 % off the ticket."


def row(number, passage, fact, answer=ANSWER, document="mill.md"):
    return {
        "id": f"{number:08x}",
        "messages": [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": answer}],
        "document": document,
        "document_digest": "sha256:1",
        "passage": passage,
        "provenance": None,
        "fact": fact,
        "covers": [number],
    }


def turns_of(rows, role):
    return [turn["content"] for made in rows for turn in made["messages"] if turn["role"] == role]


def test_each_question_is_asked_once_and_each_fact_by_keywords_too():
    facts = [row(number, HOURS, f"fact {number // 2}", f"Answer {number // 2} has words.") for number in range(6)]
    rows = list(rows_by_heart(facts, seed=0))
    asked = Counter(zip(turns_of(rows, "user"), turns_of(rows, "assistant"), strict=True))
    asked -= Counter({(f"Question {number}?", f"Answer {number // 2} has words."): 1 for number in range(6)})
    assert Counter(answer for _, answer in asked.elements()) == {
        f"Answer {number} has words.": 1 for number in range(3)
    }
    assert {place for made in rows for place in made["covers"]} == set(range(6))


def test_each_pass_asks_another_wording_and_other_keywords_and_then_earlier_ones_in_other_words():
    facts = [row(number, HOURS, f"fact {number // 2}", ANSWER + f" {number // 2}.") for number in range(4)]
    reworded = []

    class Near:
        def pick(self, word, _):
            return word.upper()

        def replace_some(self, text, kept, _):
            assert {"what", "the"} <= kept
            reworded.append(text)
            return f"{text} again"

    rows = list(rows_by_heart(facts, seed=0, passes=4, near_words=Near()))
    prompts = Counter(turns_of(rows, "user"))
    assert {f"Question {number}?": 1 for number in range(4)}.items() <= prompts.items()
    assert sorted(reworded) == [f"Question {number}?" for number in range(4)]
    keywords = [prompt for prompt in prompts if "Question" not in prompt]
    assert len(keywords) == 8
    assert any(word.isupper() for prompt in keywords for word in prompt.split())
    assert len({made["id"] for made in rows}) == len(rows)


def test_a_pass_over_a_fact_without_other_words_makes_no_row_twice():
    rows = list(rows_by_heart([row(0, HOURS, "fact", "4.50")], seed=0, passes=5))
    assert turns_of(rows, "user") == ["Question 0?"]


def test_a_row_has_few_questions_about_different_facts_of_one_passage():
    facts = [
        row(number, HOURS if number < 12 else PRICES, f"fact {number}", f"Answer {number}.") for number in range(14)
    ]
    rows = list(rows_by_heart(facts, seed=0))
    assert {made["passage"] for made in rows} == {HOURS, PRICES}
    for made in rows:
        answers = turns_of([made], "assistant")
        assert len(answers) <= QUESTIONS_PER_ROW
        assert len(set(answers)) == len(answers)
    assert max(len(made["messages"]) for made in rows) == 2 * QUESTIONS_PER_ROW


def test_rows_depend_on_the_questions_and_the_seed_alone():
    facts = [row(number, HOURS, f"fact {number}") for number in range(6)]
    assert list(rows_by_heart(facts, seed=0)) == list(rows_by_heart(facts, seed=0))
    assert list(rows_by_heart(facts, seed=0)) != list(rows_by_heart(facts, seed=1))
    other = [*facts, row(9, "Cats sleep.", "fact 9", document="other.md")]
    assert list(rows_by_heart(other, seed=0))[: len(list(rows_by_heart(facts, seed=0)))] == list(
        rows_by_heart(facts, seed=0)
    )


def test_with_passages_each_eighth_pass_asks_the_next_wording():
    facts = [row(number, HOURS, f"fact {number // 2}") for number in range(4)]
    asked = [turns_of(rows_with_passages(facts, passes=passes), "user") for passes in (1, 8, 16)]
    assert [len(each) for each in asked] == [2, 2, 4]
    assert asked[0] == asked[1] == asked[2][:2]
    assert sorted(prompt[-11:] for prompt in asked[2]) == [f"Question {number}?" for number in range(4)]


GERMAN = "Die M\u00fchle \u00f6ffnet um neun Uhr und schlie\u00dft abends um f\u00fcnf, au\u00dfer im Winter."


def written_passes(passages, *, passes=8):
    """Write a row for each passage, and return the passes that the rows count as."""
    rows = [row(number, passage, f"fact {number}") for number, passage in enumerate(passages)]
    examples = SimpleNamespace(rows=lambda *_: iter(rows), by_document=lambda _: [])
    assembly = SimpleNamespace(
        side_of=lambda _: "train", add=lambda _: None, add_joined=lambda _: None, flush=lambda: None
    )
    gathered = SimpleNamespace(harvest=SimpleNamespace(ledger=None), rows=(), kind="chat")
    settings = {"with_passages": False, "near_words": NearWords(()), "passes": passes, "seed": 0}
    expansion = SimpleNamespace(is_asked_for=False)
    return pipeline._write(assembly, examples, gathered, expansion, tell=lambda _: None, **settings)


def test_questions_that_are_written_once_count_as_one_pass_where_most_are_such():
    assert written_passes([HOURS, PRICES]) == 8
    assert written_passes([GERMAN, GERMAN]) == 1
    assert written_passes([HOURS, PRICES, GERMAN]) == 8
    assert written_passes([HOURS, GERMAN, GERMAN]) == 1


@pytest.mark.parametrize("by_base", [True, False])
def test_questions_of_the_base_model_are_trained_in_rows_by_heart_and_those_held_out_stay(by_base):
    rows = [row(number, HOURS, f"fact {number}", f"Answer {number} has words.") for number in range(3)]
    examples = SimpleNamespace(
        rows=lambda *_: iter(rows), by_document=lambda ids: (each for each in rows if each["id"] in ids)
    )
    written = []
    assembly = SimpleNamespace(
        side_of=lambda row_id: "validation" if row_id == rows[0]["id"] else "train",
        add=written.append,
        add_joined=written.append,
        flush=lambda: None,
    )
    gathered = SimpleNamespace(harvest=SimpleNamespace(ledger=None), rows=(), kind="chat")
    expansion = SimpleNamespace(is_asked_for=False)
    settings = {
        "with_passages": False,
        "near_words": NearWords(()) if by_base else None,
        "passes": 1,
        "seed": 0,
        "tell": lambda _: None,
    }
    pipeline._write(assembly, examples, gathered, expansion, **settings)
    assert written[0] == rows[0]
    assert (written[1:] == rows[1:]) is not by_base
    if by_base:
        assert "Question 0?" not in turns_of(written[1:], "user")
        assert len(turns_of(written[1:], "user")) > len(rows[1:])
