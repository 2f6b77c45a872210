"""Custom evaluations of a model, beside its base or another model."""

from dataclasses import replace

import pytest
from adapters import greedy
from tiny_model import make_rows

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.custom.questions import Question
from llamafarm_ray.evaluation.custom.sets import CustomSet
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.measuring import MeasuringJob, measure
from llamafarm_ray.models.tokenizer import load_tokenizer

ASKED = tuple(make_rows(1)[0]["messages"][:1])


@pytest.fixture(scope="module")
def own(base, adapter):
    """The adapter's own answer."""
    prompt = load_tokenizer(base).apply_chat_template(list(ASKED), tokenize=False, add_generation_prompt=True)
    return greedy(base, adapter, prompt, 6).strip()


def job(base, adapter, own, rival=None):
    asked = CustomSet("mine", (Question("one", ASKED, (own,)),), "exact_match", max_new_tokens=6)
    return MeasuringJob(MeasuredModel(base, adapter, "w", "b"), rival, "bot", (asked,), 6)


def test_a_set_is_asked_of_the_model_and_of_its_base(base, adapter, own):
    result = measure(job(base, adapter, own), lambda *_: None)
    assert list(result.benchmarks) == ["mine"]
    scores = result.benchmarks["mine"]
    assert (scores.metrics["accuracy"], scores.baseline["accuracy"], scores.improvement) == (1, 0, "+1.00")
    assert result.answered[0].answer == own
    compared = scores.comparison["accuracy"]
    assert (compared["difference"], compared["num_better"], compared["verdict"]) == (1, 1, "noise")
    assert set(scores.digests) == {"template", "data", "settings"}


def test_a_rival_is_the_baseline_instead(base, adapter, own):
    rival = MeasuredModel(base, adapter, "w", "b")
    scores = measure(job(base, None, own, rival), lambda *_: None).benchmarks["mine"]
    assert (scores.metrics["accuracy"], scores.baseline["accuracy"]) == (0, 1)


def test_a_question_that_does_not_fit_is_named(base, own):
    long = CustomSet("mine", (Question("long", ({"role": "user", "content": "word " * 300},), ("a",)),))
    with pytest.raises(InputError, match="'long' has"):
        measure(replace(job(base, None, own), custom=(long,)), lambda *_: None)
