"""The shape of a result, the same for every kind of evaluation.

::

{"evaluation_results": {
    "model_id": "medical_qa_v1.2.0", "timestamp": "2024-01-15T10:30:00Z",
    "benchmarks": {"mmlu": {"accuracy": 0.72, "improvement": "+0.05"},
                   "held_out": {"perplexity": 3.2, "improvement": "-97.1%", "baseline": {"perplexity": 110.3}}},
    "risk": {"jailbreaks": {"attack_success_rate": 0.1, "method": "...", "sample": "...", "num_examples": 40}},
    "judge": {"closed_book": {"win_rate": 0.6, ...}},
    "rag_integration": {...}, "production_metrics": {...}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.comparison import Difference, PairedScores, corrected, differences
from llamafarm_ray.evaluation.item_scores import ItemScores

__all__ = ["RESULTS", "SECTIONS", "BenchmarkScores", "EvaluationResult", "improvement"]

RESULTS = "evaluation_results"
"""Key that holds a result."""
SECTIONS = ("risk", "judge")
"""Keys of scores beside ``benchmarks``, in the same form."""
_COUNTS = ("num_examples", "num_skipped")
_TABLES = ("comparison", "digests", "intervals", "failures")
_TEXTS = ("method", "sample", "dataset", "reason", "compared_with")


@dataclass(frozen=True, slots=True)
class BenchmarkScores:
    """One benchmark's scores.

    Args:
        metrics: by name, finite; ``perplexity``, ``accuracy``, ...
        improvement: of the benchmark's first metric over the baseline, with its sign; see `improvement`.
        num_skipped: examples left out, because they are too long or have no answer.
        comparison: by metric, how it compares with the baseline's; see `llamafarm_ray.evaluation.comparison`.
        digests: of the inputs that the scores depend on: ``weights``, ``data``, ``code``, ``template`` and
            ``settings``, with the ``backend`` by name. Scores whose digests differ in more than the weights can't be
            ranked together.
        intervals: by metric, the ends of its 95 % confidence interval.
        failures: by reason, examples without a score because what scores them failed.
        method: the way of scoring, for scores that have several.
        sample: name of the examples.
        dataset: registered evaluation set of the examples, as ``name@sha256:...``.
        reason: the reason why there are no metrics; empty where there are some.
        compared_with: name of the baseline, such as a version's reference; None for the base.
        items: scores of each question, of benchmarks; no part of `to_dict`.
        differences: differences from the baseline before they are corrected; no part of `to_dict`.
    """

    metrics: dict[str, float]
    improvement: str | None = None
    baseline: dict[str, float] | None = None
    num_examples: int | None = None
    num_skipped: int | None = None
    comparison: dict[str, dict[str, object]] | None = None
    digests: dict[str, str] | None = None
    intervals: dict[str, tuple[float, float]] | None = None
    failures: dict[str, int] | None = None
    method: str | None = None
    sample: str | None = None
    dataset: str | None = None
    reason: str | None = None
    compared_with: str | None = None
    items: ItemScores | None = field(default=None, compare=False, repr=False)
    differences: Mapping[str, Difference] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read one entry of ``benchmarks``; keys with unknown names are metrics."""
        known = {"improvement", "baseline", *_COUNTS, *_TABLES, *_TEXTS}
        intervals = data.get("intervals")
        texts: dict[str, Any] = {name: data.get(name) for name in _TEXTS}
        return cls(
            metrics={name: float(value) for name, value in data.items() if name not in known},
            improvement=data.get("improvement"),
            baseline=dict(data["baseline"]) if data.get("baseline") is not None else None,
            num_examples=data.get("num_examples"),
            num_skipped=data.get("num_skipped"),
            comparison=data.get("comparison"),
            digests=data.get("digests"),
            intervals=None if intervals is None else {name: (low, high) for name, (low, high) in intervals.items()},
            failures=data.get("failures"),
            **texts,
        )

    def beside(self, baseline: BenchmarkScores) -> BenchmarkScores:
        """Return these scores with those of a baseline."""
        first = next((name for name in self.metrics if name in baseline.metrics), None)
        if first is None:  # no score of the baseline's was a number
            return replace(self, baseline=baseline.metrics)
        change = improvement(first, self.metrics[first], baseline.metrics[first])
        return replace(self, improvement=change, baseline=baseline.metrics)

    def compared(self, pairs: Mapping[str, PairedScores]) -> BenchmarkScores:
        """Return these scores with their differences from a baseline; see `EvaluationResult.corrected`.

        Args:
            pairs: scores of both models on the same examples, by metric.
        """
        return replace(self, differences=differences(pairs))

    def to_dict(self) -> dict[str, Any]:
        """One entry of ``benchmarks``, without unknown values."""
        rest = {name: getattr(self, name) for name in ("improvement", "baseline", *_COUNTS, *_TABLES, *_TEXTS)}
        if self.intervals is not None:
            rest["intervals"] = {name: list(ends) for name, ends in self.intervals.items()}
        return {**self.metrics, **{name: value for name, value in rest.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Result of an evaluation.

    Args:
        timestamp: time of the evaluation, in ISO 8601, UTC.
        benchmarks: scores by benchmark; ``held_out`` are the examples kept from training.
        rag_integration: retrieval and latency figures, where they were measured.
        production_metrics: figures from production, where there are any.
        risk: scores by risk, such as ``jailbreaks``.
        judge: a judge's scores by the set of questions that it judged.
        contamination: by set of questions, those that the training data hold.
        questions: a row for each question that was asked; for the file of the result, not for the registry.
        answered: answers to questions and custom evaluations one by one, for a report; no part of `to_dict`.
    """

    model_id: str
    timestamp: str
    benchmarks: dict[str, BenchmarkScores]
    rag_integration: dict[str, Any] | None = None
    production_metrics: dict[str, Any] | None = field(default=None)
    risk: dict[str, BenchmarkScores] = field(default_factory=dict)
    judge: dict[str, BenchmarkScores] = field(default_factory=dict)
    contamination: dict[str, object] | None = None
    questions: list[dict[str, Any]] | None = field(default=None, compare=False)
    answered: tuple[Answered, ...] = field(default=(), compare=False, repr=False)

    def with_results(self, other: EvaluationResult) -> EvaluationResult:
        """Return this result with those of another measurement of the same model; the other's win.

        The differences of both are corrected together.
        """
        both = EvaluationResult(
            other.model_id,
            other.timestamp,
            {**self.benchmarks, **other.benchmarks},
            other.rag_integration or self.rag_integration,
            other.production_metrics or self.production_metrics,
            {**self.risk, **other.risk},
            {**self.judge, **other.judge},
            other.contamination or self.contamination,
            other.questions or self.questions,
            (*self.answered, *other.answered),
        )
        return both.corrected()

    def corrected(self) -> EvaluationResult:
        """Return this result with the comparisons of all differences, corrected for the number of them together."""
        sections = {section: dict(getattr(self, section)) for section in ("benchmarks", *SECTIONS)}
        every = {
            (section, name, metric): one
            for section, of_section in sections.items()
            for name, scores in of_section.items()
            for metric, one in scores.differences.items()
        }
        for (section, name, metric), one in corrected(every).items():
            known = sections[section][name]
            comparison = {**(known.comparison or {}), metric: one.to_dict()}
            sections[section][name] = replace(known, comparison=comparison)
        return replace(self, benchmarks=sections["benchmarks"], risk=sections["risk"], judge=sections["judge"])

    def compared_with(self, name: str) -> EvaluationResult:
        """Return this result with the baseline's name beside all scores that were compared with it.

        Args:
            name: the baseline's: a version's reference, or a folder's name.
        """

        def named(scores: Mapping[str, BenchmarkScores]) -> dict[str, BenchmarkScores]:
            return {
                key: replace(one, compared_with=name) if one.baseline or one.comparison else one
                for key, one in scores.items()
            }

        return replace(self, benchmarks=named(self.benchmarks), risk=named(self.risk), judge=named(self.judge))

    def scores(self) -> Iterator[tuple[str, BenchmarkScores]]:
        """Yield all scores by dotted name: benchmarks by their own, others as ``risk.jailbreaks``."""
        yield from self.benchmarks.items()
        for section in SECTIONS:
            yield from ((f"{section}.{name}", one) for name, one in getattr(self, section).items())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            InputError: it has another form.
        """
        try:
            results = data[RESULTS]
            sections = {section: _scores_of(results.get(section, {})) for section in SECTIONS}
            return cls(
                model_id=results["model_id"],
                timestamp=results["timestamp"],
                benchmarks=_scores_of(results["benchmarks"]),
                rag_integration=results.get("rag_integration"),
                production_metrics=results.get("production_metrics"),
                contamination=results.get("contamination"),
                risk=sections["risk"],
                judge=sections["judge"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"This is no evaluation result: {type(error).__name__}: {error}",
                hint=f"It must have {RESULTS!r} with model_id, timestamp and benchmarks.",
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """The shape above, for JSON."""
        results: dict[str, object] = {
            "model_id": self.model_id,
            "timestamp": self.timestamp,
            "benchmarks": {name: scores.to_dict() for name, scores in self.benchmarks.items()},
        }
        for section in SECTIONS:
            if found := getattr(self, section):
                results[section] = {name: scores.to_dict() for name, scores in found.items()}
        for name in ("rag_integration", "production_metrics", "contamination"):
            if getattr(self, name) is not None:
                results[name] = getattr(self, name)
        return {RESULTS: results}


def _scores_of(section: Mapping[str, Mapping[str, object]]) -> dict[str, BenchmarkScores]:
    return {name: BenchmarkScores.from_dict(scores) for name, scores in section.items()}


def improvement(metric: str, value: float, baseline: float) -> str:
    """Return the difference of ``value`` and ``baseline``, with a sign that shows if the number rose or fell.

    Perplexity has no scale of its own, so its change is relative: ``-97.1%`` is good, since lower is better. Every
    other metric rises when a model gets better, and its change is the plain difference: ``+0.05``.
    """
    if metric == "perplexity":
        return f"{(value - baseline) / baseline:+.1%}"
    return f"{value - baseline:+.2f}"


def now() -> str:
    """This moment as `EvaluationResult.timestamp` has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
