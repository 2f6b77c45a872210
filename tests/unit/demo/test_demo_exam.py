"""The demo's exam asks about what was trained on, in other words; its table says right and wrong side by side."""

import json
import sys
from pathlib import Path

import pytest

from llamafarm_ray.config import load_config
from llamafarm_ray.data.generation.rules.generate import GenerateByRules
from llamafarm_ray.data.readers import reader_for
from llamafarm_ray.data.steps import Ledger, SplitPassages
from llamafarm_ray.evaluation.metrics.answers import contains
from llamafarm_ray.evaluation.rag.questions import read_questions

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "jobs" / "demo"
sys.path.insert(0, str(DEMO))

import exam  # noqa: E402  jobs/ holds scripts, no package

CONFIG = load_config(DEMO / "config.yaml")
QUESTIONS = read_questions(ROOT / CONFIG.evaluation.questions)


def document(path):
    return reader_for(path).read(path.read_bytes(), path.name)


def text_of(path):
    return "\n".join(block for section in document(path).sections for block in section.blocks)


@pytest.fixture(scope="module")
def editions():
    """The documents that are trained on, in their first and second edition."""
    first = [ROOT / path for path in CONFIG.dataset.source.path]
    return first, [DEMO / "revision" / path.relative_to(DEMO / "corpus") for path in first]


def test_both_editions_have_every_answer(editions):
    for paths in editions:
        texts = [text_of(path) for path in paths]
        lacking = [one.question for one in QUESTIONS if not any(contains(text, one.answers) for text in texts)]
        assert lacking == []


def test_there_are_ten_that_nobody_trained_on(editions):
    passages = [one for path in editions[0] for one in SplitPassages(120).run([document(path)], Ledger())]
    trained = {example.messages[0].content.casefold() for example in GenerateByRules().run(passages, Ledger())}
    assert len(trained) > 100
    assert len(QUESTIONS) == 10
    assert not trained & {question.question.casefold() for question in QUESTIONS}


def answered(**right):
    """A row of an evaluation in which these columns are right."""
    row = {"question": "How fast is it?", "answers": ["25 knots"], "closed_book": {}, "retrieved": {}}
    for name, (mode, side) in exam.COLUMNS.items():
        is_right = right.get(name.replace(" ", "_"), False)
        row[mode][side] = {"answer": f"{name} says {'25' if is_right else '9'} knots", "accuracy": float(is_right)}
    return row


def test_the_table_has_a_mark_for_each_answer_and_their_sums(capsys):
    rows = [answered(), answered(adapter=True, base_with_retrieval=True), answered(adapter=True)]
    assert exam.right_answers(rows) == {
        "base": 0,
        "base with retrieval": 1,
        "adapter": 2,
        "adapter with retrieval": 0,
    }
    exam.show_exam(rows)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert ["How", "fast", "is", "it?", "wrong", "right", "right", "wrong"] in lines
    assert ["right", "of", "3", "0", "1", "2", "0"] in lines
    assert ["adapter", "adapter", "says", "25", "knots"] in lines


def test_an_answer_that_was_not_asked_for_is_wrong():
    assert exam.right_answers([{"question": "?", "answers": ["x"], "closed_book": {}}])["adapter"] == 0


def test_every_question_has_accepted_answers_of_its_own():
    rows = [json.loads(line) for line in (DEMO / "exam.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(set(row) == {"question", "answers"} for row in rows)
    assert len({row["question"] for row in rows}) == len(rows)
