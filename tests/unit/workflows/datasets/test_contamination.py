"""Questions that a model was trained on: left out, shown, and kept where a set must pass."""

import json

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.custom.questions import Question
from llamafarm_ray.evaluation.custom.sets import CustomSet
from llamafarm_ray.evaluation.result import EvaluationResult
from llamafarm_ray.workflows.datasets.contamination import Decontamination
from llamafarm_ray.workflows.evaluation.questions import exam_of_files
from llamafarm_ray.workflows.versions.training_data import TrainingData

ROW = {
    "messages": [
        {"role": "user", "content": "When did the mill open?"},
        {"role": "assistant", "content": "It opened in 1832."},
    ]
}
KNOWN = TrainingData("qa@123456789abc", (ROW,))
UNKNOWN = TrainingData("", reason="its lineage names no training data")


def decontamination(*trained, leaves_out=True):
    return Decontamination(list(trained) or [KNOWN], leaves_out)


def questions(*texts):
    return tuple(Question(str(at), ({"role": "user", "content": text},), ("1832",)) for at, text in enumerate(texts))


def test_questions_of_the_training_data_are_not_asked_and_are_shown(tmp_path):
    path = tmp_path / "q.jsonl"
    texts = ("When did the mill open?", "Who built it?")
    path.write_text("\n".join(json.dumps({"question": text, "answers": ["1832"]}) for text in texts))
    config = parse_config({"evaluation": {"questions": str(path)}})
    found = decontamination(UNKNOWN, KNOWN)
    clean, whole = exam_of_files(config, found), exam_of_files(config)
    assert [asked.question.question for asked in clean.asked] == ["Who built it?"]
    assert clean.data != whole.data, "scores of other questions are not ranked together"
    assert found.report["questions"] == {
        "num_questions": 2,
        "num_overlapping": 1,
        "left_out": True,
        "overlaps": [
            {
                "question": "When did the mill open?",
                "training_data": "qa@123456789abc",
                "example": "When did the mill open?",
                "shared": "when did the mill open",
            }
        ],
    }
    assert found.report["not_compared"] == ["its lineage names no training data"]
    result = EvaluationResult("bot", "t", {}, contamination=found.report)
    assert EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_set_that_must_pass_keeps_its_questions_and_another_does_not():
    asked = questions("When did the mill open?", "Who built it?")
    found = decontamination()
    assert len(found.clean_set(CustomSet("mine", asked)).questions) == 1
    assert len(found.clean_set(CustomSet("regressions", asked, must_pass=True)).questions) == 2
    assert (found.report["mine"]["left_out"], found.report["regressions"]["left_out"]) == (True, False)
    assert found.report["regressions"]["num_overlapping"] == 1


def test_a_set_of_trained_questions_alone_is_refused_unless_they_are_wanted():
    asked = CustomSet("mine", questions("when did the mill open"))
    with pytest.raises(InputError, match="All 1 questions of mine are in the training data"):
        decontamination().clean_set(asked)
    assert decontamination(leaves_out=False).clean_set(asked) == asked


def test_without_training_data_nothing_is_said_to_be_clean():
    found = decontamination(UNKNOWN)
    assert found.clean_set(CustomSet("mine", questions("When did the mill open?"))).questions
    assert found.report == {"mine": {"num_questions": 1}, "not_compared": ["its lineage names no training data"]}
    assert decontamination().report is None


def test_questions_of_a_benchmark_are_shown_and_asked_all_the_same(tmp_path):
    (tmp_path / "anatomy").mkdir()
    for split, texts in (("test", ("When did the mill open?", "Who built it?")), ("dev", ("When did the mill open?",))):
        lines = (json.dumps({"question": text, "choices": ["a", "b"], "answer": 0}) for text in texts)
        (tmp_path / "anatomy" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = decontamination()
    found.note_benchmarks(tmp_path)
    (name,) = found.report
    noted = found.report[name]
    assert (name, noted["num_questions"], noted["num_overlapping"]) == ("benchmark_data/anatomy", 2, 1)
    assert not noted["left_out"]
    assert noted["overlaps"][0]["example"] == "When did the mill open?"
