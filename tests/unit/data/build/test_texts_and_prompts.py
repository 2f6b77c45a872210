"""Documents as plain texts, and questions in the prompt of an application."""

import os

import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.documents import files_table, process_documents, step_names
from llamafarm_ray.data.build.pipeline import _target
from llamafarm_ray.data.prompts import Prompt
from llamafarm_ray.data.row_kinds import row_of_kind
from llamafarm_ray.data.sources import SourceFile
from llamafarm_ray.data.training_rows import KINDS

TEXTS = DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"enabled": False}}})


def texts_of(folder, text):
    path = folder / "a.md"
    path.write_text(text, encoding="utf-8")
    (table,) = process_documents(files_table([SourceFile("a.md", os.fsencode(path))]), config=TEXTS, by_rules=True)
    return [row_of_kind(row, "text")["text"] for row in table.column("examples")[0].as_py()]


def test_without_questions_a_document_is_a_text_with_its_headings(tmp_path):
    text = "# Guide\n\nOpen the valve slowly.\n\n## Safety\n\nWear gloves at all times.\n"
    (made,) = texts_of(tmp_path, text)
    assert made.split("\n\n") == [
        "Guide",
        "Open the valve slowly.",
        "Safety",
        "Wear gloves at all times.",
    ]


def test_a_long_document_is_several_texts_and_none_of_it_is_lost(tmp_path):
    sentences = [f"Sentence number {number} says something about valves." for number in range(500)]
    made = texts_of(tmp_path, "# Valves\n\n" + " ".join(sentences))
    assert len(made) == 4
    joined = " ".join(made)
    assert all(sentence in joined for sentence in sentences)


def test_secrets_are_redacted_in_texts_too(tmp_path):
    (made,) = texts_of(tmp_path, "# Cards\n\nThe test card is 4111 1111 1111 1111 and works.\n")
    assert "4111 1111" not in made
    assert "[CARD]" in made


def test_the_steps_of_texts_make_no_questions():
    assert "texts" in step_names(TEXTS, by_rules=True)
    assert "generate" not in step_names(TEXTS, by_rules=True)


def test_a_template_has_the_question_and_its_passage_and_nothing_else_changes():
    row = {
        "id": "x",
        "passage": "The {question} mark is a sign.",
        "messages": [{"role": "user", "content": "What is {context}?"}, {"role": "assistant", "content": "A sign."}],
    }
    prompt = Prompt('Context: {context}\nReply as {"answer": ...}.\nQ: {question}', "You are terse.")
    applied = prompt.applied_to(row)
    assert [turn["role"] for turn in applied["messages"]] == ["system", "user", "assistant"]
    asked = applied["messages"][1]["content"]
    assert asked == 'Context: The {question} mark is a sign.\nReply as {"answer": ...}.\nQ: What is {context}?'
    assert applied["id"] != "x"
    assert Prompt().applied_to(row) == row


@pytest.mark.parametrize(
    ("generation", "kind"),
    [({"enabled": False}, "text"), ({"kinds": ["retrieval"]}, "match"), ({"kinds": ["preferences"]}, "preference")],
)
def test_rows_of_documents_are_written_with_the_columns_of_their_kind(tmp_path, generation, kind):
    config = DatasetConfig.model_validate({"preprocessing": {"qa_generation": generation}})
    target = _target(tmp_path / "out", config, None, overwrite=False)
    assert target._schema == KINDS[kind].schema
