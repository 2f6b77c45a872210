"""Rows of practice: reading is learned from invented pages."""

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.gathering import Gathered
from llamafarm_ray.data.generation import Choice
from llamafarm_ray.data.harvest import Harvest
from llamafarm_ray.data.lessons import load_lessons
from llamafarm_ray.data.pipeline import _is_by_base
from llamafarm_ray.data.practice import MAX_PRACTICE_ROWS, practice_rows
from llamafarm_ray.data.rows import ROW_SCHEMA
from llamafarm_ray.data.sources import Sources


def test_practice_asks_about_invented_pages_and_names_no_document():
    rows = list(practice_rows(1000, seed=0))
    assert len({row["id"] for row in rows}) == len(rows) == MAX_PRACTICE_ROWS
    assert len(list(practice_rows(7, seed=0))) == 7
    assert {*rows[0]} == {*ROW_SCHEMA.names, "covers"}
    assert {(row["document"], row["document_digest"], row["passage"]) for row in rows} == {("", "", "")}


def test_each_answer_of_practice_belongs_to_a_text_of_its_pages():
    texts = {pair.question: lesson.text for lesson in load_lessons() for pair in lesson.pairs}
    answers = {pair.question: pair.answer for lesson in load_lessons() for pair in lesson.pairs}
    for row in practice_rows(40, seed=0):
        turns = [turn["content"] for turn in row["messages"]]
        asked = [turns[0].rpartition("\nQuestion: ")[2], *turns[2::2]]
        assert all(texts[question] in turns[0] for question in asked)
        assert turns[1::2] == [answers[question] for question in asked]


def test_the_seed_decides_the_practice():
    first, again, other = (list(practice_rows(9, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_practice_is_for_chats_that_the_base_model_wrote_and_that_are_asked_with_passages():
    def needs(generator, kind="chat", **preprocessing):
        gathered = Gathered(Harvest(local=True), Sources(), kind, choice=Choice(generator, "", ""))
        return _is_by_base(DatasetConfig.model_validate({"preprocessing": preprocessing}), gathered)

    assert needs("base_model")
    assert not needs("endpoint")
    assert not needs("rules", with_passages=True)
    assert not needs("base_model", with_passages=False)
    assert not needs("base_model", kind="match")
