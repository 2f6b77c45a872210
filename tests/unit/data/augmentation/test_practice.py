"""Rows of practice: reading is learned from invented pages."""

import re

import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.augmentation.practice import MAX_PRACTICE_ROWS, load_pages, practice_rows
from llamafarm_ray.data.build.passes import asks_by_heart, check_passes
from llamafarm_ray.data.generation import Choice
from llamafarm_ray.data.rows import ROW_SCHEMA
from llamafarm_ray.data.search.excerpts import SentenceIndex
from llamafarm_ray.errors import InputError

_NUMBER = re.compile(r"\d(?:[\d.,:]*\d)?")


def test_practice_asks_about_invented_pages_and_names_no_document():
    rows = list(practice_rows(1000, seed=0))
    assert len({row["id"] for row in rows}) == len(rows) == MAX_PRACTICE_ROWS
    assert len(list(practice_rows(7, seed=0))) == 7
    assert {*rows[0]} == {*ROW_SCHEMA.names, "covers"}
    assert {(row["document"], row["document_digest"], row["passage"]) for row in rows} == {("", "", "")}


def test_each_page_comes_once_before_one_comes_again(monkeypatch):
    pages = load_pages()
    monkeypatch.setattr("llamafarm_ray.data.augmentation.practice.MAX_PRACTICE_ROWS", 2 * len(pages))
    answers = [row["messages"][1]["content"] for row in practice_rows(2 * len(pages), seed=3)]
    found = [next(at for at, page in enumerate(pages) if answer in "\n".join(page.passages)) for answer in answers]
    assert len(set(found[: len(pages)])) == len(pages)
    assert len(set(found[len(pages) :])) == len(pages)


def test_each_answer_of_practice_is_a_sentence_that_its_row_shows():
    for row in practice_rows(MAX_PRACTICE_ROWS, seed=0):
        turns = [turn["content"] for turn in row["messages"]]
        assert all(answer in turns[0].splitlines() for answer in turns[1::2])


def test_the_sentence_that_answers_holds_the_numbers_of_the_answer_as_written():
    missing = []
    for page in load_pages():
        index = SentenceIndex(page.passages)
        for each in page.questions:
            sentence = index.sentences[index.supporting(each.answer, each.passage)]
            missing += [each.question] * (not set(_NUMBER.findall(each.answer)) <= set(_NUMBER.findall(sentence)))
    assert len(missing) < 40


def test_the_numbers_of_an_answer_stand_in_its_passage():
    for page in load_pages():
        for each in page.questions:
            assert set(_NUMBER.findall(each.answer)) <= set(_NUMBER.findall(page.passages[each.passage])), each


def test_the_pages_ask_different_questions():
    questions = [each.question for page in load_pages() for each in page.questions]
    assert len(set(questions)) == len(questions) > 700


def test_the_seed_decides_the_practice():
    first, again, other = (list(practice_rows(9, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_practice_is_for_chats_that_the_base_model_wrote_and_that_are_asked_with_passages():
    def needs(generator, kind="chat", **preprocessing):
        config = DatasetConfig.model_validate({"preprocessing": preprocessing})
        return asks_by_heart(config, Choice(generator, "", ""), kind)

    assert needs("base_model")
    assert not needs("endpoint")
    assert not needs("rules", with_passages=True)
    assert not needs("base_model", with_passages=False)
    assert not needs("base_model", kind="match")


@pytest.mark.parametrize(
    ("generator", "preprocessing", "reason"),
    [
        ("rules", {}, "the pairs are written by rules"),
        ("endpoint", {"with_passages": True}, "the pairs are written by endpoint"),
        ("base_model", {"with_passages": False}, "with_passages is false"),
        ("base_model", {"prompt_template": "{context} {question}"}, "prompt_template is set"),
        ("base_model", {"qa_generation": {"kinds": ["retrieval"]}}, "the rows are of kind match"),
    ],
)
def test_passes_that_would_have_no_effect_are_refused(generator, preprocessing, reason):
    choice = Choice(generator, "", "")
    for passes, is_refused in ((3, True), (1, False), ("auto", False)):
        generation = {**preprocessing.get("qa_generation", {}), "passes": passes}
        settings = {**preprocessing, "qa_generation": generation}
        config = DatasetConfig.model_validate({"preprocessing": settings})
        if is_refused:
            with pytest.raises(InputError, match=reason):
                check_passes(config, choice)
        else:
            check_passes(config, choice)
    asked = DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"passes": 3}}})
    check_passes(asked, Choice("base_model", "", ""))
