"""Exams from files, and from the held-out rows of a dataset."""

import json
from types import SimpleNamespace

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.evaluation import questions, sentence_ranking
from llamafarm_ray.workflows.evaluation.questions import exam_of_files, exam_of_rows
from llamafarm_ray.workflows.evaluation.run import EvaluationRun
from llamafarm_ray.workflows.evaluation.sentence_ranking import ranked_by_base_model

QUESTIONS = [
    {"question": "When was the mill built?", "answers": ["1832"], "document": "mill.md"},
    {"question": "When did the inn burn?", "answers": ["1901"]},
]


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "mill.md").write_text("# Mill\n\nThe mill was built in 1832.\n", encoding="utf-8")
    (tmp_path / "docs" / "inn.md").write_text("# Inn\n\nThe inn burned in 1901.\n", encoding="utf-8")
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    return {"questions": str(tmp_path / "q.jsonl"), "corpus": str(tmp_path / "docs")}


def config(**evaluation):
    return parse_config({"evaluation": evaluation})


def test_questions_are_asked_with_passages_of_the_corpus(settings):
    exam = exam_of_files(config(**settings, retrieved_passages=1))
    built, burned = exam.asked
    assert built.prompts["retrieved"].split("\n\n")[1:] == [
        "Mill\nThe mill was built in 1832.",
        "Question: When was the mill built?",
    ]
    assert built.prompts["gold"] == built.prompts["retrieved"]
    assert [passage.document for passage in burned.passages["retrieved"]] == ["inn.md"]
    assert (built.relevant, burned.relevant) == ((True,), (True,))


def test_digests_tell_apart_what_was_asked_and_how(settings, tmp_path):
    one, same, more = (exam_of_files(config(**settings, retrieved_passages=k)) for k in (1, 1, 2))
    assert (one.data, one.settings) == (same.data, same.settings)
    assert one.settings["retrieved"] != more.settings["retrieved"]
    assert one.settings["closed_book"] == more.settings["closed_book"]
    (tmp_path / "docs" / "new.md").write_text("Something else.", encoding="utf-8")
    grown = exam_of_files(config(**settings, retrieved_passages=1))
    assert grown.data["retrieved"] != one.data["retrieved"]
    assert grown.data["closed_book"] == one.data["closed_book"]


def test_the_sentences_nearest_to_the_question_are_shown_or_whole_passages(settings, tmp_path):
    text = "# Mill\n\nThe mill was built in 1832. It has four floors. Cats live there. Its wheel is of oak.\n"
    (tmp_path / "docs" / "mill.md").write_text(text, encoding="utf-8")
    shown = {}
    for most in (1, 2, None):
        exam = exam_of_files(config(**settings, retrieved_passages=1, retrieved_sentences=most))
        shown[most] = exam.asked[0].prompts["retrieved"].split("\n\n")[1].splitlines()[1:]
        assert "Its wheel is of oak." in exam.asked[0].prompts["gold"]
        shown[most, "settings"] = exam.settings
    assert shown[1] == ["The mill was built in 1832."] == shown[2][-1:]
    assert (len(shown[2]), len(shown[None])) == (2, 1)
    assert shown[1, "settings"]["retrieved"] != shown[2, "settings"]["retrieved"]
    assert shown[1, "settings"]["gold"] == shown[2, "settings"]["gold"]


def test_the_kept_answers_are_those_of_the_model_and_of_its_baseline(settings, monkeypatch, tmp_path):
    asked = []

    def run_on_ray(_function, job, _on_progress):
        asked.append((job["model"].base.name, job["model"].kept, job["baseline"]))
        return SimpleNamespace(model="answers", baseline="before", template="")

    monkeypatch.setattr(questions, "run_on_ray", run_on_ray)
    monkeypatch.setattr(questions, "exam_result", lambda _asked, model, baseline, **_: (model, baseline))
    exam = exam_of_files(config(**settings))
    options = {"model_id": "bot", "max_new_tokens": 8, "digests": {}}
    model = MeasuredModel(tmp_path / "tiny", None, "w", "w", kept="ours")
    rival = MeasuredModel(tmp_path / "other", None, "v", "v", kept="theirs")
    assert exam.ask(model, None, **options) == ("answers", "before")
    assert exam.ask(model, rival, **options) == ("answers", "answers")
    assert asked == [("tiny", "ours", True), ("tiny", "ours", False), ("other", "theirs", False)]


def test_a_corpus_alone_and_documents_that_cant_be_read_are_refused(settings, tmp_path):
    with pytest.raises(InputError, match="no question"):
        exam_of_files(config(corpus=settings["corpus"]))
    (tmp_path / "docs" / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    with pytest.raises(InputError, match=r"broken\.pdf"):
        exam_of_files(config(**settings))


def test_nothing_to_evaluate_on_is_said_before_anything_is_loaded():
    with pytest.raises(InputError, match="nothing to evaluate on"):
        EvaluationRun.prepare(config(), None, "bot")


def row(question, answer, passage):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": question, "messages": turns, "document": "mill.md", "passage": passage}


def test_held_out_rows_are_an_exam_about_the_datasets_passages():
    rows = [row("When was it built?", "The mill was built in 1832.", "The mill was built in 1832.")]
    others = [{"document": "inn.md", "passage": "The inn was built in 1901."}]
    (asked,) = exam_of_rows(config(retrieved_passages=2), rows, others).asked
    assert asked.question.is_whole
    assert asked.prompts["gold"].split("\n\n")[1] == "The mill was built in 1832."
    found = dict(zip((one.document for one in asked.passages["retrieved"]), asked.relevant, strict=True))
    assert found == {"mill.md": True, "inn.md": False}


def test_rows_without_passages_have_no_rag_accuracy():
    with pytest.raises(InputError, match="rag_accuracy can't be measured"):
        exam_of_rows(config(), [row("x?", "y", None)], [])


def ranked(settings, base, home, monkeypatch, *, is_last_likeliest=True, **evaluation):
    """Return an exam before and after ranking, and the jobs of the base model.

    The question is likeliest after the last sentence, or after the first one.
    """
    jobs = []

    def run(function, settings, _):
        assert function.startswith("llamafarm_ray.data.generation.base_model.likelihood:")
        jobs.append(settings["job"])
        rising = [[9.0 * at for at in range(len(places))] for _, places in jobs[-1].asked]
        return rising if is_last_likeliest else [scores[::-1] for scores in rising]

    monkeypatch.setattr(sentence_ranking, "run_on_ray", run)
    monkeypatch.setattr(sentence_ranking, "total", lambda _: 0.0)
    applied = config(**settings, retrieved_passages=1, **evaluation)
    exam = exam_of_files(applied)
    return exam, ranked_by_base_model(exam, applied.evaluation, base, Location(str(home))), jobs


def test_the_base_model_chooses_the_sentence_that_is_shown(settings, tmp_path, monkeypatch):
    text = "# Mill\n\nThe mill was built in 1832. It burned down twice. Cats live there.\n"
    (tmp_path / "docs" / "mill.md").write_text(text, encoding="utf-8")
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    exam, found, (job,) = ranked(settings, base, tmp_path / "home", monkeypatch, sentence_ranker="base_model")
    assert found.asked[0].prompts["retrieved"].split("\n\n")[1] == "Mill\nCats live there."
    assert found.asked[0].prompts["gold"] == exam.asked[0].prompts["gold"]
    assert job.cache == f"{Location(str(tmp_path / 'home')).uri}/cache/generation"
    assert job.asked[0] == ("When was the mill built?", [0, 1, 2])
    assert job.sentences[1] == ("Mill", "The mill was built in 1832.", "It burned down twice.")
    options = {"is_last_likeliest": False, "sentence_ranker": "base_model"}
    _, other, _ = ranked(settings, base, tmp_path / "home", monkeypatch, **options)
    assert other.asked[0].prompts["retrieved"].split("\n\n")[1] == "Mill\nThe mill was built in 1832."
    assert len({one.settings["retrieved"] for one in (exam, found, other)}) == 3
    assert found.settings["gold"] == other.settings["gold"] == exam.settings["gold"]


def test_vectors_rank_where_the_base_model_is_too_small_or_whole_passages_are_shown(settings, tmp_path, monkeypatch):
    base = tmp_path / "base"
    base.mkdir()
    for evaluation in ({}, {"sentence_ranker": "vectors"}, {"retrieved_sentences": None}):
        exam, found, jobs = ranked(settings, base, tmp_path, monkeypatch, **evaluation)
        assert (found, jobs) == (exam, [])
        (base / "model.safetensors").write_bytes(b"few weights")
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"can't rank sentences: .* has no weights in safetensors"):
        ranked(settings, base, tmp_path, monkeypatch, sentence_ranker="base_model")
