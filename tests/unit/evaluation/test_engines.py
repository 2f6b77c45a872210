"""One definition on every engine: examples, questions, sets and risks have the same prompts, answers and losses."""

import re
from dataclasses import replace

import pytest
from adapters import make_adapter
from engine_server import serving
from gguf_files import write_gguf, write_lora
from tiny_model import make_rows

from llamafarm_ray.evaluation.answering import answer_held_out
from llamafarm_ray.evaluation.custom.questions import Question
from llamafarm_ray.evaluation.custom.sets import CustomSet
from llamafarm_ray.evaluation.engines.opening import opened
from llamafarm_ray.evaluation.engines.served import Endpoint
from llamafarm_ray.evaluation.losses import Scored
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.measuring import MeasuringJob, measure
from llamafarm_ray.evaluation.rag.run import ExamJob, answer_exam
from llamafarm_ray.evaluation.risk.conduct import jailbreak_test
from llamafarm_ray.evaluation.risk.fairness import fairness_test
from llamafarm_ray.evaluation.risk.run import RiskJob, measure_risk
from llamafarm_ray.evaluation.run import EvaluationJob, score_answers

ROWS = make_rows(5)


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def plain(base):
    return MeasuredModel(base, None, "w", "w")


@pytest.fixture(scope="module")
def gguf(base, tmp_path_factory):
    pytest.importorskip("xllamacpp")
    file = write_gguf(base, tmp_path_factory.mktemp("gguf") / "model.gguf")
    return MeasuredModel(file.parent, None, "w", "w", backend="gguf")


@pytest.fixture(scope="module")
def endpoint(base):
    from llamafarm_ray.serving.engines.transformers import transformers_engine

    with serving(transformers_engine("tiny", base)) as url:
        yield MeasuredModel(base, None, "w", "w", backend="endpoint", endpoint=Endpoint(url, "tiny"))


@pytest.fixture(params=["endpoint", pytest.param("gguf", marks=pytest.mark.long)])
def other(request):
    return request.getfixturevalue(request.param)


def whole_letters(text):
    """An answer without broken letters at its end and the spaces between them.

    Engines that serve leave out the letter that the last token ends within; answers are stripped of spaces afterwards.
    """
    return text and re.sub(r"[\s\N{REPLACEMENT CHARACTER}]+\Z", "", text).strip()


def shown(answered):
    return [
        replace(one, answer=whole_letters(one.answer), baseline_answer=whole_letters(one.baseline_answer))
        for one in answered
    ]


def close(found, expected):
    return found == pytest.approx(expected, rel=1e-3, abs=1e-3)


def held_out(model):
    job = EvaluationJob(model, ROWS, ("perplexity", "byte_perplexity", "rouge", "calibration_error"), 6, "bot", True)
    return score_answers(job, [answer_held_out(job, quiet)])


def test_held_out_examples_have_the_same_answers_losses_and_confidence(plain, other):
    found, expected = held_out(other), held_out(plain)
    assert [whole_letters(one.answer) for one in found.answered] == [
        whole_letters(one.answer) for one in expected.answered
    ]
    assert close(found.benchmarks["held_out"].metrics, expected.benchmarks["held_out"].metrics)
    assert found.benchmarks["held_out"].digests == expected.benchmarks["held_out"].digests, "of the template"


def test_questions_have_the_same_answers(plain, other):
    prompts = {"closed_book": ["What is a llama?", "How many legs?"], "gold": ["A llama is an animal.", None]}
    found, expected = (answer_exam(ExamJob(model, prompts, 6, True), quiet).model for model in (other, plain))
    for mode, answers in expected.items():
        for one, same in zip(found[mode], answers, strict=True):
            assert (one and whole_letters(one.text)) == (same and whole_letters(same.text))
            assert one is None or close(one.confidence, same.confidence)


def test_sets_of_the_users_own_and_general_texts_have_the_same_scores(plain, other):
    asked = CustomSet("mine", (Question("one", tuple(ROWS[0]["messages"][:1]), ("yes",)),), "f1", max_new_tokens=6)
    found, expected = (
        measure(MeasuringJob(model, None, "bot", (asked,), 6, general=True), quiet) for model in (other, plain)
    )
    assert shown(found.answered) == shown(expected.answered)
    for name in ("mine", "general_text"):
        assert close(found.benchmarks[name].metrics, expected.benchmarks[name].metrics)


def test_risks_have_the_same_answers_and_likelihoods(plain, other):
    tests = (jailbreak_test(), fairness_test())
    few = tuple(replace(test, probes=test.probes[:4]) for test in tests)
    found, expected = (measure_risk(RiskJob(model, None, "bot", few), quiet) for model in (other, plain))
    assert shown(found.answered) == shown(expected.answered)
    for name in ("jailbreaks", "fairness"):
        assert close(found.risk[name].metrics, expected.risk[name].metrics)


@pytest.mark.long
def test_an_adapter_in_gguf_is_asked_beside_its_base(gguf, base, tmp_path):
    write_lora(tmp_path / "lora" / "adapter.gguf", base, seed=1, scale=2.0)
    adapted = MeasuredModel(gguf.base, tmp_path / "lora", "a", "w", backend="gguf")
    prompts = {"closed_book": ["What is a llama?"]}
    found = answer_exam(ExamJob(adapted, prompts, 6, True), quiet)
    alone = answer_exam(ExamJob(gguf, prompts, 6, True), quiet)
    assert found.baseline["closed_book"][0].text == alone.model["closed_book"][0].text
    assert found.model["closed_book"][0].text != found.baseline["closed_book"][0].text
    assert alone.baseline is None


def test_an_endpoint_is_asked_for_the_model_alone(endpoint, tmp_path, base):
    adapted = MeasuredModel(base, make_adapter(base, tmp_path, seed=1), "a", "w", None, "endpoint", endpoint.endpoint)
    assert answer_exam(ExamJob(adapted, {"closed_book": ["Why?"]}, 2, True), quiet).baseline is None


def test_losses_between_others_are_told_apart(plain, other):
    """The user's turn between two answers does not count."""
    rows = [Scored([1, 5, 6, 7, 8, 9], [False, False, True, False, True, True]), Scored([1, 5], [True, False])]
    with opened(plain) as engine:
        expected = engine.losses(rows, quiet, "losses")
    with opened(other) as engine:
        found = engine.losses(rows, quiet, "losses")
    assert [(one.num_tokens, one.num_bytes) for one in found] == [(one.num_tokens, one.num_bytes) for one in expected]
    assert [one.num_tokens for one in found] == [3, 0]
    assert close([one.total for one in found], [one.total for one in expected])


@pytest.mark.long
def test_vllm_has_the_same_answers_and_losses_with_and_without_an_adapter(base, tmp_path, monkeypatch):
    pytest.importorskip("vllm")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    adapter = make_adapter(base, tmp_path / "adapter", seed=3)
    prompts = [[1, 5, 6, 7], [1, 9, 8], [1, 5, 5, 5, 5]]
    rows = [Scored([1, 5, 6, 7, 8, 9], [False, False, True, False, True, True])]
    found = {}
    for backend in ("transformers", "vllm"):
        with opened(MeasuredModel(base, adapter, "w", "b", backend=backend)) as engine:
            assert engine.max_length
            found[backend] = [
                (engine.generate(prompts, 6, quiet, with_adapter=one), engine.losses(rows, quiet, "", with_adapter=one))
                for one in (True, False)
            ]
    for (answers, losses), (expected, of_rows) in zip(found["vllm"], found["transformers"], strict=True):
        assert [whole_letters(one.text) for one in answers] == [whole_letters(one.text) for one in expected]
        assert close([one.confidence for one in answers], [one.confidence for one in expected])
        assert close([one.total for one in losses], [one.total for one in of_rows])
    texts = [[one.text for one in answers] for answers, _ in found["vllm"]]
    assert texts[0] != texts[1], "the adapter changes answers"
