"""The loss of fixed texts before and after training."""

import math

import pytest
from adapters import prompt_logprobs

from llamafarm_ray.evaluation.general import texts
from llamafarm_ray.evaluation.general.texts import general_result
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.measuring import MeasuringJob, measure
from llamafarm_ray.evaluation.metrics import Sample
from llamafarm_ray.evaluation.result import EvaluationResult

FEW = ["A llama is an animal.", "What does a farm need? Water.", "word " * 300]


def perplexity(base, adapter):
    found = [prompt_logprobs(base, adapter, f"<s>{text}")[1] for text in FEW[:2]]
    return math.exp(-math.fsum(map(math.fsum, found)) / sum(map(len, found)))


def test_general_texts_stand_beside_the_bases_with_their_difference(base, adapter, monkeypatch):
    monkeypatch.setattr(texts, "_texts", lambda: FEW)
    job = MeasuringJob(MeasuredModel(base, adapter, "w", "b"), None, "bot", (), 6, general=True)
    scores = measure(job, lambda *_: None).benchmarks["general_text"]
    assert scores.metrics["perplexity"] == pytest.approx(perplexity(base, adapter), rel=1e-4)
    assert scores.baseline["perplexity"] == pytest.approx(perplexity(base, None), rel=1e-4)
    assert (scores.num_examples, scores.num_skipped) == (2, 1)
    assert scores.comparison["log_perplexity"]["num_clusters"] == 2
    assert scores.sample == "general texts 1 (3 texts)"


def samples(loss):
    return {at: Sample(loss_sum=40 * (loss + at / 100), num_loss_tokens=40, num_loss_bytes=160) for at in range(24)}


def verdict_of(scores):
    return EvaluationResult("bot", "t", {"g": scores}).corrected().benchmarks["g"].comparison["log_perplexity"]


def test_a_higher_loss_of_all_texts_is_worse_and_an_equal_one_is_none():
    worse = verdict_of(general_result(samples(2.3), samples(2.0), "t"))
    assert (worse["difference"], worse["verdict"]) == (pytest.approx(0.3), "worse")
    assert worse["low"] > 0.29
    assert verdict_of(general_result(samples(2.0), samples(2.0), "t"))["verdict"] == "noise"
    assert general_result({}, None, "t").reason == "no text fits the model"


def test_the_texts_differ_and_say_something():
    assert len({*texts._texts()}) == 24
    assert all(len(text) > 30 for text in texts._texts())
