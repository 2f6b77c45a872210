"""A measurement on held-out examples: its inputs, and the scores of the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.errors import InputError, UnsupportedError, did_you_mean
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.comparison.pairing import paired_scores
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.metrics import METRICS, Sample
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult, improvement, now

__all__ = ["HELD_OUT", "HELD_OUT_METRICS", "EvaluationJob", "HeldOutAnswers", "Samples", "score_answers"]

HELD_OUT_METRICS = {
    "perplexity": "perplexity",
    "byte_perplexity": "byte_perplexity",
    "bleu": "bleu",
    "chrf": "chrf",
    "rouge": "rouge_l",
    "exact_match": "exact_match",
    "f1": "f1",
    "contains": "contains",
    "numeric_match": "numeric_match",
    "refusal_rate": "refusal_rate",
    "toxicity": "toxicity",
    "length": "length",
    "json_valid": "json_valid",
    "tool_call_accuracy": "tool_call_accuracy",
    "calibration_error": "calibration_error",
    "latency_p95": "latency_p95",
    "tokens_per_second": "tokens_per_second",
}
"""Names in ``evaluation.metrics``, with the metrics that they are."""

HELD_OUT = "held_out"
"""Name of the scores of held-out examples among the results."""
_SLICES = ("document", "language", "topic")
"""Keys of a row that group answers in a report."""
_OF_LOSSES = {"perplexity", "byte_perplexity"}


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """A measurement; see `llamafarm_ray.evaluation.evaluate`."""

    model: MeasuredModel
    rows: list[dict[str, Any]]
    metrics: tuple[str, ...]
    max_new_tokens: int
    model_id: str
    baseline: bool
    rival: MeasuredModel | None = None

    def __post_init__(self) -> None:
        """Check that all metrics can be measured.

        Raises:
            UnsupportedError: one can't.
        """
        for metric in self.metrics:
            if metric not in HELD_OUT_METRICS:
                raise UnsupportedError(
                    f"evaluation.metrics names {metric!r}, which can't be measured on held-out examples.",
                    hint=did_you_mean(metric, HELD_OUT_METRICS),
                )

    @property
    def generates(self) -> bool:
        """True if a metric needs answers."""
        return any(metric not in _OF_LOSSES for metric in self.metrics)

    @property
    def needs_losses(self) -> bool:
        """True if a metric needs the references' losses."""
        return any(metric in _OF_LOSSES for metric in self.metrics)


Samples = dict[int, Sample]
"""Answers by the place of their rows."""


@dataclass(frozen=True, slots=True)
class HeldOutAnswers:
    """Answers to examples, or to one worker's part of them.

    Args:
        baseline: the baseline's; None if none was asked.
        template: digest of the chat template.
    """

    model: Samples
    baseline: Samples | None
    template: str


def score_answers(job: EvaluationJob, parts: Sequence[HeldOutAnswers]) -> EvaluationResult:
    """Return the scores of the answers of all workers beside the baseline's.

    Raises:
        InputError: no example could be measured.
    """
    samples = _merged([one.model for one in parts])
    baseline = _merged([one.baseline or {} for one in parts]) or None
    if not samples or (job.rival is not None and baseline is None):
        raise InputError(
            f"None of the {len(job.rows)} examples can be measured.",
            hint="They need an assistant turn, and must not be longer than the model allows.",
        )
    metrics, others = _scores(job, samples), _scores(job, baseline) if baseline else None
    first = next(iter(metrics), None)
    documents = [row.get("document") for row in job.rows]
    names = {HELD_OUT_METRICS[metric]: HELD_OUT_METRICS[metric] for metric in job.metrics}
    pairs = paired_scores(samples, baseline, documents, names) if baseline else {}
    scores = BenchmarkScores(
        metrics=metrics,
        improvement=improvement(first, metrics[first], others[first]) if first and others and first in others else None,
        baseline=others,
        num_examples=len(samples),
        num_skipped=len(job.rows) - len(samples),
        digests={"template": parts[0].template},
    )
    answered = tuple(_one_by_one(job, samples, baseline or {}))
    return EvaluationResult(job.model_id, now(), {HELD_OUT: scores.compared(pairs)}, answered=answered).corrected()


def _one_by_one(job: EvaluationJob, samples: Samples, baseline: Samples) -> Iterator[Answered]:
    """Yield the answers with the score of the first metric that answers have one by one, else their F1."""
    if not job.generates:
        return
    known = (METRICS[HELD_OUT_METRICS[name]] for name in job.metrics)
    metric = next((one for one in known if one.each is not None and one.higher_is_better), METRICS["f1"])
    for at, sample in samples.items():
        row, before = job.rows[at], baseline.get(at)
        yield Answered(
            benchmark=HELD_OUT,
            id=str(row.get("id", at + 1)),
            prompt=sample.question,
            accepted=sample.accepted,
            answer=sample.answer,
            score=metric.of_sample(sample),
            baseline_answer=before.answer if before is not None else None,
            baseline_score=metric.of_sample(before) if before is not None else None,
            slices={name: str(row[name]) for name in _SLICES if row.get(name)},
        )


def _merged(parts: Sequence[Samples]) -> Samples:
    """Return the answers of all parts in the order of their rows."""
    return dict(sorted(item for part in parts for item in part.items()))


def _scores(job: EvaluationJob, samples: Samples) -> dict[str, float]:
    """Return the scores in the order of ``job.metrics``, without those that could not be measured."""
    chosen = list(samples.values())
    found = {HELD_OUT_METRICS[name]: METRICS[HELD_OUT_METRICS[name]].measure(chosen).value for name in job.metrics}
    return {name: value for name, value in found.items() if value is not None}
