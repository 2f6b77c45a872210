"""All metrics by name: how each is computed from samples, and which direction is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamafarm_ray.errors import InputError, did_you_mean
from llamafarm_ray.evaluation.metrics.answers import contains, exact_match, numeric_match, token_f1
from llamafarm_ray.evaluation.metrics.calibration import calibration_error
from llamafarm_ray.evaluation.metrics.grounding import agreement, context_use, faithfulness
from llamafarm_ray.evaluation.metrics.likelihood import byte_perplexity, perplexity
from llamafarm_ray.evaluation.metrics.overlap import bleu, chrf, rouge_1, rouge_2, rouge_l
from llamafarm_ray.evaluation.metrics.retrieval import hit_rate, ndcg, reciprocal_rank
from llamafarm_ray.evaluation.metrics.sample import Sample
from llamafarm_ray.evaluation.metrics.speed import percentile, tokens_per_second
from llamafarm_ray.evaluation.metrics.structured import json_valid, tool_call_accuracy
from llamafarm_ray.text.refusals import is_refusal
from llamafarm_ray.text.tokens import word_tokens
from llamafarm_ray.text.toxicity import toxicity

__all__ = ["METRICS", "Metric", "Score", "find_metric"]

Samples = Sequence[Sample]


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value over samples.

    Args:
        value: the score, always finite; None if no sample could be measured.
        num_measured: samples that it was computed from.
        num_skipped: samples that lack what the metric needs.
    """

    value: float | None
    num_measured: int
    num_skipped: int


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Args:
        higher_is_better: direction; None for a figure that describes only, such as a length.
        function: function that computes it; its docstring names the source.
        applies: function that returns True if a sample has the needed values.
        each: score of one sample, and the metric is their mean over those that have one; None for a metric of a set.
        whole: score of a set, for metrics that are no mean.
    """

    name: str
    higher_is_better: bool | None
    function: Callable[..., object]
    applies: Callable[[Sample], bool]
    each: Callable[[Sample], float | None] | None = None
    whole: Callable[[Samples], float | None] | None = None

    def of_sample(self, sample: Sample) -> float | None:
        """Return the score of one sample; None if it lacks what the metric needs, or the metric has none."""
        return self.each(sample) if self.each is not None and self.applies(sample) else None

    def measure(self, samples: Samples) -> Score:
        """Return the score of samples."""
        if self.whole is not None:
            able = [sample for sample in samples if self.applies(sample)]
            value, num_measured = self.whole(able) if able else None, len(able)
        else:
            scores = [score for score in map(self.of_sample, samples) if score is not None]
            value, num_measured = math.fsum(scores) / len(scores) if scores else None, len(scores)
        if value is None or not math.isfinite(value):
            return Score(None, 0, len(samples))
        return Score(value, num_measured, len(samples) - num_measured)


def find_metric(name: str) -> Metric:
    """Return the metric of a name.

    Raises:
        InputError: there is none.
    """
    if name not in METRICS:
        raise InputError(f"There is no metric {name!r}.", hint=did_you_mean(name, METRICS))
    return METRICS[name]


def _has_accepted(sample: Sample) -> bool:
    return bool(sample.accepted)


def _has_answer(_: Sample) -> bool:
    return True


def _has_context(sample: Sample) -> bool:
    return bool(sample.context)


def _has_ranking(sample: Sample) -> bool:
    return sample.relevant is not None


def _accepted(name: str, function: Callable[[str, Sequence[str]], float]) -> Metric:
    return Metric(name, True, function, _has_accepted, each=lambda sample: function(sample.answer, sample.accepted))


def _corpus(name: str, function: Callable[[Sequence[str], Sequence[Sequence[str]]], float]) -> Metric:
    def whole(samples: Samples) -> float:
        return function([sample.answer for sample in samples], [sample.accepted for sample in samples])

    return Metric(name, True, function, _has_accepted, whole=whole)


def _ranking(name: str, function: Callable[[Sequence[bool]], float]) -> Metric:
    return Metric(name, True, function, _has_ranking, each=lambda sample: function(sample.relevant or ()))


def _ndcg(sample: Sample) -> float:
    ranked = sample.relevant or ()
    known = sum(ranked) if sample.num_relevant is None else sample.num_relevant
    return ndcg(ranked, ideal=[True] * known)


def _loss(name: str, function: Callable[[float, int], float], unit: str) -> Metric:
    def whole(samples: Samples) -> float | None:
        units = sum(getattr(sample, unit) for sample in samples)
        return function(math.fsum(sample.loss_sum or 0.0 for sample in samples), units) if units else None

    def applies(sample: Sample) -> bool:
        return sample.loss_sum is not None and bool(getattr(sample, unit))

    return Metric(name, False, function, applies, whole=whole)


def _calibration(samples: Samples) -> float | None:
    right = [contains(sample.answer, sample.accepted) > 0 for sample in samples]
    return calibration_error([sample.confidence or 0.0 for sample in samples], right)


def _latency(samples: Samples) -> float | None:
    return percentile([sample.seconds or 0.0 for sample in samples], 95)


def _speed(samples: Samples) -> float | None:
    seconds = math.fsum(sample.seconds or 0.0 for sample in samples)
    return tokens_per_second(sum(sample.num_tokens or 0 for sample in samples), seconds)


def _is_timed(sample: Sample) -> bool:
    return sample.seconds is not None


_ALL = (
    _loss("perplexity", perplexity, "num_loss_tokens"),
    _loss("byte_perplexity", byte_perplexity, "num_loss_bytes"),
    _corpus("bleu", bleu),
    _corpus("chrf", chrf),
    _accepted("rouge_1", rouge_1),
    _accepted("rouge_2", rouge_2),
    _accepted("rouge_l", rouge_l),
    _accepted("exact_match", exact_match),
    _accepted("f1", token_f1),
    _accepted("contains", contains),
    _accepted("numeric_match", numeric_match),
    Metric(
        "json_valid",
        higher_is_better=True,
        function=json_valid,
        applies=lambda sample: sample.schema is not None,
        each=lambda sample: json_valid(sample.answer, True if sample.schema is None else sample.schema),
    ),
    Metric(
        "tool_call_accuracy",
        higher_is_better=True,
        function=tool_call_accuracy,
        applies=lambda sample: sample.expected_calls is not None,
        each=lambda sample: tool_call_accuracy(sample.answer, sample.expected_calls or ()),
    ),
    Metric(
        "faithfulness",
        higher_is_better=True,
        function=faithfulness,
        applies=_has_context,
        each=lambda sample: faithfulness(sample.answer, sample.context, sample.question),
    ),
    Metric(
        "agreement",
        higher_is_better=True,
        function=agreement,
        applies=_has_accepted,
        each=lambda sample: agreement(sample.answer, sample.accepted, sample.question),
    ),
    Metric(
        "context_use",
        higher_is_better=True,
        function=context_use,
        applies=lambda sample: bool(sample.context and sample.accepted),
        each=lambda sample: context_use(sample.answer, sample.context, sample.accepted),
    ),
    _ranking("hit_rate", hit_rate),
    _ranking("mrr", reciprocal_rank),
    Metric("ndcg", higher_is_better=True, function=ndcg, applies=_has_ranking, each=_ndcg),
    Metric(
        "refusal_rate",
        higher_is_better=None,
        function=is_refusal,
        applies=_has_answer,
        each=lambda sample: float(is_refusal(sample.answer)),
    ),
    Metric(
        "toxicity",
        higher_is_better=False,
        function=toxicity,
        applies=_has_answer,
        each=lambda sample: toxicity(sample.answer),
    ),
    Metric(
        "length",
        higher_is_better=None,
        function=word_tokens,
        applies=_has_answer,
        each=lambda sample: float(len(word_tokens(sample.answer))),
    ),
    Metric(
        "calibration_error",
        higher_is_better=False,
        function=calibration_error,
        applies=lambda sample: sample.confidence is not None and bool(sample.accepted),
        whole=_calibration,
    ),
    Metric("latency_p95", higher_is_better=False, function=percentile, applies=_is_timed, whole=_latency),
    Metric(
        "tokens_per_second",
        higher_is_better=True,
        function=tokens_per_second,
        applies=lambda sample: sample.seconds is not None and sample.num_tokens is not None,
        whole=_speed,
    ),
)

METRICS: Final[Mapping[str, Metric]] = {metric.name: metric for metric in _ALL}
"""Every metric by its name."""
