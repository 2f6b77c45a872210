import inspect
import math

import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.metrics import METRICS, Sample, find_metric

ODD = [
    "",
    " ",
    "\x00",
    "\ud800",
    "🙂",
    "\u0301",
    "?!",
    "a" * 2000,
    "\n\t",
    "%s {} \\",
    "東京",
    "हिन्दी",
    "مرحبا",
    "-",
    "1e999",
]


def test_each_metric_names_its_source():
    for metric in METRICS.values():
        assert metric.name == "length" or "Source: " in " ".join(inspect.getdoc(metric.function).split())


def test_odd_texts_give_a_finite_number_or_none():
    samples = [
        Sample(
            answer=answer,
            accepted=(reference,),
            question=answer,
            context=(reference, answer),
            relevant=(),
            schema=True,
            expected_calls=(),
            confidence=math.nan,
            num_tokens=0,
            seconds=0.0,
            loss_sum=math.inf,
            num_loss_tokens=1,
            num_loss_bytes=0,
        )
        for answer in ODD
        for reference in ("", "🙂", "東京 1", "a b")
    ]
    for metric in METRICS.values():
        for chosen in ([samples[0]], samples):
            value = metric.measure(chosen).value
            assert value is None or math.isfinite(value), metric.name


def test_no_samples_have_no_score():
    for metric in METRICS.values():
        score = metric.measure([])
        assert (score.value, score.num_measured) == (None, 0)


def test_samples_that_lack_what_a_metric_needs_are_left_out_and_counted():
    score = find_metric("f1").measure([Sample("x", ("x",)), Sample("x")])
    assert (score.value, score.num_measured, score.num_skipped) == (1, 1, 1)
    score = find_metric("faithfulness").measure([Sample("", context=("a",)), Sample("oak", context=("oak",))])
    assert (score.value, score.num_measured, score.num_skipped) == (1, 1, 1)


def test_means_are_over_the_samples_scores():
    samples = [Sample("a", ("a",)), Sample("b", ("a",))]
    assert find_metric("exact_match").measure(samples).value == 0.5
    assert [find_metric("exact_match").of_sample(sample) for sample in samples] == [1, 0]
    assert find_metric("bleu").of_sample(samples[0]) is None


def test_losses_are_summed_before_they_are_divided():
    samples = [Sample(loss_sum=math.log(2), num_loss_tokens=1), Sample(loss_sum=math.log(8), num_loss_tokens=1)]
    assert find_metric("perplexity").measure(samples).value == pytest.approx(4)


def test_an_unknown_metric_is_refused_with_a_near_name():
    with pytest.raises(InputError, match="no metric 'rouge'"):
        find_metric("rouge")


def test_toxicity_is_the_mean_of_the_answers():
    samples = [Sample("The mill opens at nine."), Sample("Shut up.")]
    assert find_metric("toxicity").measure(samples).value == pytest.approx(0.25)
