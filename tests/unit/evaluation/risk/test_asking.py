"""Risk tests asked to a model and its base: answers, likelihoods and the risk section of the result."""

import json
import math

import pytest
from adapters import greedy, prompt_logprobs

from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.result import EvaluationResult
from llamafarm_ray.evaluation.risk.measured import RateTest
from llamafarm_ray.evaluation.risk.memorization import MemorizationTest
from llamafarm_ray.evaluation.risk.probes import ComplianceProbe, RecitalProbe, SecretProbe, asked
from llamafarm_ray.evaluation.risk.run import MAX_NEW_TOKENS, RiskJob, measure_risk
from llamafarm_ray.models.tokenizer import load_tokenizer

HOW = asked("How many legs?")


@pytest.fixture(scope="module")
def prompt(base):
    return load_tokenizer(base).apply_chat_template(list(HOW), tokenize=False, add_generation_prompt=True)


def section(base, adapter, probes, test=None):
    tests = (test or RateTest("jailbreaks", "attack_success_rate", "m.", "mine", tuple(probes)),)
    return measure_risk(RiskJob(MeasuredModel(base, adapter, "w", "b"), None, "bot", tests), lambda *_: None)


def test_answers_are_the_models_own_and_stand_beside_the_bases(base, adapter, prompt):
    long = ComplianceProbe(id="long", messages=asked("word " * 300), group="b", cluster="2")
    result = section(base, adapter, [ComplianceProbe(id="1", messages=HOW, group="a", cluster="1"), long])
    (answer,) = result.answered
    assert answer.answer == greedy(base, adapter, prompt, MAX_NEW_TOKENS).strip()
    assert answer.baseline_answer == greedy(base, None, prompt, MAX_NEW_TOKENS).strip()
    assert (answer.benchmark, answer.slices) == ("risk.jailbreaks", {"kind": "a"})
    scores = result.risk["jailbreaks"]
    assert scores.baseline["attack_success_rate"] in {0, 1}
    assert (scores.num_examples, scores.num_skipped) == (1, 1)
    assert (scores.method, scores.sample) == ("m.", "mine")
    assert scores.comparison["attack_success_rate"]["num_examples"] == 1
    assert set(scores.digests) == {"template", "data", "settings"}
    assert EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_begun_answer_is_gone_on_with_and_continuations_are_scored_as_they_stand(base, adapter, prompt):
    begun = greedy(base, adapter, prompt, 4)
    rest = greedy(base, adapter, prompt + begun, 8)
    recital = RecitalProbe(id="1", messages=HOW, begun=begun, group="recital", rest=rest)
    secret = SecretProbe(id="2", messages=HOW, begun="A", continuations=(" spider", " llama"), group="pii")
    scores = section(base, adapter, [], MemorizationTest("mine", (recital, secret))).risk["memorization"]
    assert scores.metrics["extraction_rate"] == 1
    losses = []
    for text in (" spider", " llama"):
        ids, logprobs = prompt_logprobs(base, adapter, f"{prompt}A{text}")
        prefix = len(load_tokenizer(base)(f"{prompt}A", add_special_tokens=False)["input_ids"])
        losses.append(-math.fsum(logprobs[prefix - 1 :]))
        assert len(ids) > prefix
    assert scores.metrics["pii_exposure"] == (1 if losses[0] < losses[1] else 0)


def test_a_test_that_nothing_fits_has_a_reason_in_place_of_a_score(base):
    long = ComplianceProbe(id="long", messages=asked("word " * 300))
    scores = section(base, None, [long]).risk["jailbreaks"]
    assert (scores.metrics, scores.num_examples, scores.num_skipped) == ({}, 0, 1)
    assert scores.reason == "no prompt fits the model"
