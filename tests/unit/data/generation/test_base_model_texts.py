"""Texts to ask about, and the checks of questions."""

import pytest

from llamafarm_ray.data.generation.base_model.texts import Text, question_fault, texts_of, without_topic
from llamafarm_ray.data.generation.base_model.uniqueness import best_texts

MILL = Text("The Mill, Prices", "", "A tour of the mill costs 4.50 euros and takes forty minutes.")


def test_a_text_that_points_back_brings_the_sentence_before_it():
    texts = texts_of(
        "The Mill", ("The Mill", "History"), "The mill burned down in 1911.\nIt was rebuilt in brick. Yes."
    )
    assert texts == [
        Text("The Mill, History", "", "The mill burned down in 1911.", "History"),
        Text("The Mill, History", "The mill burned down in 1911.", "It was rebuilt in brick.", "History"),
    ]
    assert texts[0].answer == "The mill burned down in 1911."
    assert texts[1].answer == "The mill burned down in 1911. It was rebuilt in brick."


def test_a_short_detail_is_answered_with_its_heading():
    texts = texts_of("Walks", ("Walks", "Kessen Crag"), "Distance: 7 miles\nThe path is steep: take care at the top.")
    assert [text.answer for text in texts] == [
        "Kessen Crag \u2013 Distance: 7 miles",
        "The path is steep: take care at the top.",
    ]
    assert texts_of("", (), "Distance: 7 miles")[0].answer == "Distance: 7 miles"


def test_an_answer_of_more_than_sixty_words_is_the_text_alone():
    text = Text("The Mill", "The mill burned down in 1911.", "It was rebuilt " + "and rebuilt " * 24 + "in red brick.")
    assert text.answer == f"{text.before} {text.text}"
    text = Text("The Mill", text.before, text.text.replace("in red", "in old red"))
    assert text.answer == text.text


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("How much does a tour of the mill cost?", ""),
        ("What does the mill charge for a tour?", ""),
        ("How much did Anna pay for a tour of the mill?", "question has a name or number that the text lacks"),
        ("How much does a tour cost in 1999?", "question has a name or number that the text lacks"),
        ("How many penguins swim near frozen islands?", "question is about something else"),
        ("What old prices does the mill have?", "question is about the heading"),
        ("Where is the mill?", ""),
        ("What are the prices?", "question is about the heading"),
        ("The tour costs money.", "question is no question"),
        ("Why?", "question is no question"),
    ],
)
def test_a_question_is_checked_against_its_text(question, fault):
    assert question_fault(question, MILL) == fault


def test_a_question_belongs_to_the_text_that_it_fits_best():
    texts = ["A tour of the mill costs 4.50 euros.", "The mill burned down in 1911.", "Tours begin at ten."]
    assert best_texts(["What does a tour of the mill cost?", "When did the mill burn down?"], texts) == [0, 1]
    assert best_texts([], texts) == []
    assert len(best_texts(["?", "of the"], ["the", "of it"])) == 2


@pytest.mark.parametrize(
    ("question", "short"),
    [
        ("How far is the train station from the Mill?", "How far is the train station?"),
        ("How much is a locker at The Mill?", "How much is a locker?"),
        ("What does a visit to the mill in Prices cost?", "What does a visit to the mill in Prices cost?"),
        ("What is at the mill?", "What is at the mill?"),
        ("How far is the station from the church?", "How far is the station from the church?"),
    ],
)
def test_a_question_can_do_without_the_name_of_its_document(question, short):
    assert without_topic(question, "The Mill, Prices") == short
