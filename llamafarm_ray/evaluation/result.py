"""The shape of a result, the same for every kind of evaluation.

::

{"evaluation_results": {
    "model_id": "medical_qa_v1.2.0", "timestamp": "2024-01-15T10:30:00Z",
    "benchmarks": {"mmlu": {"accuracy": 0.72, "improvement": "+0.05"},
                   "held_out": {"perplexity": 3.2, "improvement": "-97.1%", "baseline": {"perplexity": 110.3}}},
    "rag_integration": {...}, "production_metrics": {...}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.answered import Answered

__all__ = ["RESULTS", "BenchmarkScores", "EvaluationResult", "improvement"]

RESULTS = "evaluation_results"
"""Key that holds a result."""
_COUNTS = ("num_examples", "num_skipped")
_TABLES = ("comparison", "digests")


@dataclass(frozen=True, slots=True)
class BenchmarkScores:
    """One benchmark's scores.

    Args:
        metrics: by name, finite; ``perplexity``, ``accuracy``, ...
        improvement: of the benchmark's first metric over the baseline, with its sign; see `improvement`.
        baseline: the same metrics of the model it is compared with.
        num_examples: examples measured.
        num_skipped: examples left out, because they are too long or have no answer.
        comparison: by metric, how it compares with the baseline's; see `llamafarm_ray.evaluation.comparison`.
        digests: of what the scores depend on: ``weights``, ``data``, ``code``, ``template`` and ``settings``, with the
            ``backend`` by name. Scores whose digests differ in more than the weights can't be ranked together.
    """

    metrics: dict[str, float]
    improvement: str | None = None
    baseline: dict[str, float] | None = None
    num_examples: int | None = None
    num_skipped: int | None = None
    comparison: dict[str, dict[str, Any]] | None = None
    digests: dict[str, str] | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read one entry of ``benchmarks``: what is not known by its name is a metric."""
        known = {"improvement", "baseline", *_COUNTS, *_TABLES}
        return cls(
            metrics={name: float(value) for name, value in data.items() if name not in known},
            improvement=data.get("improvement"),
            baseline=dict(data["baseline"]) if data.get("baseline") is not None else None,
            num_examples=data.get("num_examples"),
            num_skipped=data.get("num_skipped"),
            comparison=data.get("comparison"),
            digests=data.get("digests"),
        )

    def beside(self, baseline: BenchmarkScores) -> BenchmarkScores:
        """Return these scores with those of a baseline."""
        first = next(iter(self.metrics))
        change = improvement(first, self.metrics[first], baseline.metrics[first])
        return replace(self, improvement=change, baseline=baseline.metrics)

    def to_dict(self) -> dict[str, Any]:
        """One entry of ``benchmarks``; what is not known is left out."""
        rest = {
            "improvement": self.improvement,
            "baseline": self.baseline,
            "num_examples": self.num_examples,
            "num_skipped": self.num_skipped,
            "comparison": self.comparison,
            "digests": self.digests,
        }
        return {**self.metrics, **{name: value for name, value in rest.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What is known of a model's quality.

    Args:
        model_id: the model that was measured.
        timestamp: when, in ISO 8601, UTC.
        benchmarks: scores by benchmark; ``held_out`` are the examples kept from training.
        rag_integration: retrieval and latency figures, where they were measured.
        production_metrics: figures from production, where there are any.
        questions: a row for each question that was asked; for the file of the result, not for the registry.
        answered: answers to questions and custom evaluations one by one, for a report; no part of `to_dict`.
    """

    model_id: str
    timestamp: str
    benchmarks: dict[str, BenchmarkScores]
    rag_integration: dict[str, Any] | None = None
    production_metrics: dict[str, Any] | None = field(default=None)
    questions: list[dict[str, Any]] | None = field(default=None, compare=False)
    answered: tuple[Answered, ...] = field(default=(), compare=False, repr=False)

    def with_results(self, other: EvaluationResult) -> EvaluationResult:
        """Return this result with those of another measurement of the same model; the other's win."""
        return EvaluationResult(
            other.model_id,
            other.timestamp,
            {**self.benchmarks, **other.benchmarks},
            other.rag_integration or self.rag_integration,
            other.production_metrics or self.production_metrics,
            other.questions or self.questions,
            (*self.answered, *other.answered),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            InputError: it has another form.
        """
        try:
            results = data[RESULTS]
            return cls(
                model_id=results["model_id"],
                timestamp=results["timestamp"],
                benchmarks={name: BenchmarkScores.from_dict(scores) for name, scores in results["benchmarks"].items()},
                rag_integration=results.get("rag_integration"),
                production_metrics=results.get("production_metrics"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"This is no evaluation result: {type(error).__name__}: {error}",
                hint=f"It must have {RESULTS!r} with model_id, timestamp and benchmarks.",
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """The shape above, for JSON."""
        results: dict[str, Any] = {
            "model_id": self.model_id,
            "timestamp": self.timestamp,
            "benchmarks": {name: scores.to_dict() for name, scores in self.benchmarks.items()},
        }
        if self.rag_integration is not None:
            results["rag_integration"] = self.rag_integration
        if self.production_metrics is not None:
            results["production_metrics"] = self.production_metrics
        return {RESULTS: results}


def improvement(metric: str, value: float, baseline: float) -> str:
    """How ``value`` differs from ``baseline``, with a sign that says whether the number rose or fell.

    Perplexity has no scale of its own, so its change is relative: ``-97.1%`` is good, since lower is better. Every
    other metric rises when a model gets better, and its change is the plain difference: ``+0.05``.
    """
    if metric == "perplexity":
        return f"{(value - baseline) / baseline:+.1%}"
    return f"{value - baseline:+.2f}"


def now() -> str:
    """This moment as `EvaluationResult.timestamp` has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
