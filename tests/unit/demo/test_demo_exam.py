"""The demo's exam asks about what was trained on, in other words; its table says right and wrong side by side."""

import json
import sys
from pathlib import Path

import pytest

from llamafarm_ray.cli import terminal
from llamafarm_ray.config import load_config
from llamafarm_ray.data.generation.rules.generate import GenerateByRules
from llamafarm_ray.data.readers import reader_for
from llamafarm_ray.data.steps import Ledger, SplitPassages
from llamafarm_ray.evaluation.metrics.answers import contains
from llamafarm_ray.evaluation.rag.grading import Answer
from llamafarm_ray.evaluation.rag.questions import read_questions
from llamafarm_ray.evaluation.rag.result import exam_result
from llamafarm_ray.workflows.evaluation.questions import exam_of_files

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "jobs" / "demo"
sys.path.insert(0, str(DEMO))

import exam  # noqa: E402  jobs/ holds scripts, no package
import run  # noqa: E402

CONFIG = load_config(DEMO / "config.yaml")
QUESTIONS = read_questions(ROOT / CONFIG.evaluation.questions)
IN_PLACE = CONFIG.evaluation.model_copy(update={"questions": str(DEMO / "exam.jsonl"), "corpus": str(DEMO / "corpus")})


def document(path):
    return reader_for(path).read(path.read_bytes(), path.name)


def text_of(path):
    return "\n".join(block for section in document(path).sections for block in section.blocks)


@pytest.fixture(scope="module")
def editions():
    """The documents that are trained on, in their first and second edition."""
    first = [ROOT / str(CONFIG.dataset.source.path)]
    return first, [DEMO / "revision" / path.relative_to(DEMO / "corpus") for path in first]


def test_both_editions_have_every_answer(editions):
    for paths in editions:
        texts = [text_of(path) for path in paths]
        lacking = [one.question for one in QUESTIONS if not any(contains(text, one.answers) for text in texts)]
        assert lacking == []


@pytest.mark.parametrize(
    ("file", "num_documents", "revised", "num_questions"),
    [
        ("config.yaml", 1, ["tickets.pdf"], 2),
        ("tiny.yaml", 31, ["north-workshop.md", "rescue-team.docx", "tickets.pdf"], 7),
    ],
)
def test_a_second_edition_is_the_same_documents_with_the_revision(
    tmp_path, file, num_documents, revised, num_questions
):
    demo = run.Demo(tmp_path, load_config(DEMO / file), None, is_tiny=file == "tiny.yaml")
    texts = []
    for number in (1, 2):
        named = demo.edition(number).dataset.source.path
        paths = [Path(one) for one in ([named] if isinstance(named, str) else named)]
        found = [one for path in paths for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file()]
        texts.append({path.name: text_of(path) for path in found})
    assert set(texts[0]) == set(texts[1])
    assert len(texts[0]) == num_documents
    changed = [name for name in texts[0] if texts[0][name] != texts[1][name]]
    assert sorted(changed) == revised
    for key, of_edition in zip(("fact", "fact_v2"), texts, strict=True):
        asked = [item for item in demo.questions if any(item[key] in text for text in of_edition.values())]
        assert len(asked) == num_questions


def test_there_are_ten_that_nobody_trained_on(editions):
    passages = [one for path in editions[0] for one in SplitPassages(120).run([document(path)], Ledger())]
    trained = {example.messages[0].content.casefold() for example in GenerateByRules().run(passages, Ledger())}
    assert len(trained) > 50
    assert len(QUESTIONS) == 10
    assert not trained & {question.question.casefold() for question in QUESTIONS}


def asked(words):
    """Rows of an evaluation in which model and base give these answers in each mode, one text for all questions."""
    questions = exam_of_files(CONFIG.model_copy(update={"evaluation": IN_PLACE})).asked
    said = {name: [Answer(words[name], 3, 0.1)] * len(questions) for name in words}
    model = {"closed_book": said["adapter"], "retrieved": said["adapter with retrieval"]}
    baseline = {"closed_book": said["base"], "retrieved": said["base with retrieval"]}
    return exam_result(questions, model, baseline, model_id="bot", digests={}).questions


def test_the_table_has_a_mark_for_each_answer_and_their_sums(capsys, monkeypatch):
    monkeypatch.setattr(terminal.console, "_width", 80)
    says = dict.fromkeys(exam.COLUMNS, "No idea.")
    rows = asked({**says, "adapter": "It is green.", "adapter with retrieval": "A green one, for 4 euros."})
    right = {"base": 0, "base with retrieval": 0, "adapter": 1, "adapter with retrieval": 2}
    assert exam.right_answers(rows) == right
    exam.show_exam(rows)
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert max(map(len, shown.splitlines())) <= 80
    assert any(line.startswith("wrong wrong right right Which colour is the form") for line in lines)
    assert "wrong wrong wrong wrong What do I pay to take my dog along?" in lines
    assert "0 0 1 2 right of 10" in lines
    assert "adapter with retrieval A green one, for 4 euros." in lines


def test_retrieval_brings_most_answers():
    questions = exam_of_files(CONFIG.model_copy(update={"evaluation": IN_PLACE})).asked
    assert sum(any(one.relevant) for one in questions) >= 6


def test_an_answer_that_was_not_asked_for_is_wrong():
    assert exam.right_answers([{"question": "?", "answers": ["x"], "closed_book": {}}])["adapter"] == 0


def test_every_question_has_accepted_answers_of_its_own():
    rows = [json.loads(line) for line in (DEMO / "exam.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(set(row) == {"question", "answers"} for row in rows)
    assert len({row["question"] for row in rows}) == len(rows)
