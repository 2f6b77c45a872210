"""Texts, facts and checks of the base model's pairs."""

import pytest

from llamafarm_ray.data.generation.base_model.spans import (
    Text,
    answer_fault,
    candidate_facts,
    question_fault,
    same_fact,
    texts_of,
)

MILL = Text("The Mill, Prices", "", "A tour of the mill costs 4.50 euros and takes forty minutes.")


def test_a_text_that_points_back_brings_the_sentence_before_it():
    texts = texts_of(
        "The Mill", ("The Mill", "History"), "The mill burned down in 1911.\nIt was rebuilt in brick. Yes."
    )
    assert texts == [
        Text("The Mill, History", "", "The mill burned down in 1911."),
        Text("The Mill, History", "The mill burned down in 1911.", "It was rebuilt in brick."),
    ]
    assert [text.stands_alone for text in texts] == [True, False]


def test_a_table_row_does_not_stand_alone():
    assert not Text("The Mill", "", "Adult \u2013 Price: 4 euros; Valid for: one day").stands_alone


def test_facts_stand_in_the_text_and_do_not_overlap():
    proposed = ["forty minutes", "50 euros", "minutes", "an hour", MILL.text]
    assert candidate_facts(MILL.text, proposed) == ["forty minutes", "4.50"]
    assert candidate_facts(MILL.text, []) == ["4.50"]


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("How much does a tour of the mill cost?", ""),
        ("What does the mill charge for a tour?", ""),
        ("How much is it for 4.50 euros?", "question holds its answer"),
        ("How much did Anna pay for a tour of the mill?", "question has a name or number that the text lacks"),
        ("How much does a tour cost in 1999?", "question has a name or number that the text lacks"),
        ("How many penguins swim near frozen islands?", "question is about something else"),
        ("The tour costs money.", "question is no question"),
        ("Why?", "question is no question"),
    ],
)
def test_a_question_is_checked_against_its_text(question, fault):
    assert question_fault(question, "4.50", MILL) == fault


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("A tour of the mill costs 4.50 euros.", ""),
        ("A tour of the mill takes forty minutes.", "answer lacks the fact"),
        ("A tour of the castle costs 4.50 euros.", "answer says more than the text"),
        ("A tour of the mill costs 14.50 euros.", "answer lacks the fact"),
    ],
)
def test_an_answer_holds_the_fact_and_says_no_more_than_the_text(answer, fault):
    assert answer_fault(answer, "4.50", MILL) == fault


def test_facts_are_the_same_if_one_holds_the_words_of_the_other():
    assert same_fact("forty minutes", "takes forty minutes")
    assert not same_fact("4", "4.50 euros")
    assert not same_fact("", "4.50 euros")
