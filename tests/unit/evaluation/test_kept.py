"""An evaluation that is killed goes on: answers so far are kept by the digest of what they depend on."""

import pickle
from dataclasses import replace

import pytest
from tiny_model import make_rows

from llamafarm_ray.evaluation import generation, losses
from llamafarm_ray.evaluation.answering import answer_held_out
from llamafarm_ray.evaluation.custom.questions import Question
from llamafarm_ray.evaluation.custom.sets import CustomSet
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.measuring import MeasuringJob, measure
from llamafarm_ray.evaluation.rag.run import ExamJob, answer_exam
from llamafarm_ray.evaluation.risk.conduct import jailbreak_test
from llamafarm_ray.evaluation.risk.run import RiskJob, measure_risk
from llamafarm_ray.evaluation.run import EvaluationJob
from llamafarm_ray.storage import Location

ROWS = make_rows(40)
"""More than a chunk, and than a batch."""


class KilledError(Exception):
    """The process ended."""


@pytest.fixture
def kept(tmp_path):
    return KeptBatches(Location(tmp_path / "home"), "evaluation-answers/a")


def held_out(base, adapter, kept):
    model = MeasuredModel(base, adapter, "w", "b", kept)
    job = EvaluationJob(model, ROWS, ("perplexity", "bleu"), 3, "bot", True)
    found = answer_held_out(job, lambda *_: None)
    whole = [found.model, found.baseline]
    return [{at: replace(one, seconds=None) for at, one in samples.items()} for samples in whole]


def custom(base, adapter, kept):
    questions = tuple(Question(str(at), tuple(row["messages"][:1]), ("yes",)) for at, row in enumerate(ROWS[:20]))
    asked = (CustomSet("mine", questions, "f1", max_new_tokens=3),)
    model = MeasuredModel(base, adapter, "w", "b", kept)
    result = measure(MeasuringJob(model, None, "bot", asked, 3, general=True), lambda *_: None)
    return [result.benchmarks, [one.to_dict() for one in result.answered]]


def risks(base, adapter, kept):
    test = jailbreak_test()
    few = replace(test, probes=test.probes[:20])
    result = measure_risk(RiskJob(MeasuredModel(base, adapter, "w", "b", kept), None, "bot", (few,)), lambda *_: None)
    return [result.risk, [one.to_dict() for one in result.answered]]


def exam(base, adapter, kept):
    prompts = {"closed_book": [row["messages"][0]["content"] for row in ROWS[:20]]}
    found = answer_exam(ExamJob(MeasuredModel(base, adapter, "w", "b", kept), prompts, 3, True), lambda *_: None)
    answers = [found.model["closed_book"], found.baseline["closed_book"]]
    return [[replace(one, seconds=0.0) for one in of_model] for of_model in answers]


def counted(monkeypatch, killed_after=None):
    """Count the batches that are computed, and end the process after some of them."""
    seen = []

    def counting(function):
        def call(*arguments):
            if len(seen) == killed_after:
                raise KilledError
            seen.append(arguments)
            return function(*arguments)

        return call

    monkeypatch.setattr(generation, "_generate_batch", counting(generation._generate_batch))
    monkeypatch.setattr(losses, "_batch_losses", counting(losses._batch_losses))
    return seen


@pytest.mark.parametrize("kind", [held_out, custom, risks, exam])
def test_a_run_that_was_killed_computes_only_the_rest_and_has_the_same_result(base, adapter, kept, monkeypatch, kind):
    with monkeypatch.context() as patched:
        every = counted(patched)
        expected = kind(base, adapter, None)
    with monkeypatch.context() as patched:
        before = counted(patched, killed_after=len(every) - 2)
        with pytest.raises(KilledError):
            kind(base, adapter, kept)
    with monkeypatch.context() as patched:
        after = counted(patched)
        assert kind(base, adapter, kept) == expected
    assert (len(before), len(after)) == (len(every) - 2, 2)


def test_answers_of_other_weights_and_damaged_ones_are_none(kept, tmp_path):
    kept.of("w").keep(["answers", [[1, 2]], 3], [["yes", 1, 0.5, 0.25]])
    again = pickle.loads(pickle.dumps(kept))  # noqa: S301  as it travels to a worker
    assert again.of("w").find(["answers", [[1, 2]], 3]) == [["yes", 1, 0.5, 0.25]]
    assert kept.of("other").find(["answers", [[1, 2]], 3]) is None
    assert kept.of("w").find(["answers", [[1, 2]], 4]) is None
    for file in (tmp_path / "home").rglob("*.json"):
        file.write_text('{"cut')
    assert kept.of("w").find(["answers", [[1, 2]], 3]) is None
    kept.clear()
    assert not list((tmp_path / "home").rglob("*.json"))
