"""Scores of a benchmark question by question, for comparisons of two models on the same questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from llamafarm_ray.evaluation.comparison import PairedScores

__all__ = ["ItemScores"]


@dataclass(frozen=True, slots=True)
class ItemScores:
    """Scores of one model on the questions of one benchmark.

    Args:
        metrics: by metric, the score of each question by its name. The mean of a metric's scores is its value.
        documents: by question, the digest of the text that it is about, where its row names one.
        lower_is_better: metrics that fall when a model gets better.
    """

    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)
    lower_is_better: tuple[str, ...] = ()

    def paired_with(self, baseline: ItemScores) -> dict[str, PairedScores]:
        """Return the scores on the questions that both models answered, by metric."""
        found = {}
        for metric, scores in self.metrics.items():
            others = baseline.metrics.get(metric, {})
            both = [item for item in scores if item in others]
            if both:
                found[metric] = PairedScores(
                    [scores[item] for item in both],
                    [others[item] for item in both],
                    [self.documents.get(item) for item in both],
                    metric not in self.lower_is_better,
                )
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: the value has another form.
        """
        metrics = {
            metric: {item: float(score) for item, score in scores.items()} for metric, scores in data["metrics"].items()
        }
        return cls(metrics, dict(data["documents"]), tuple(data["lower_is_better"]))

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        metrics = {metric: dict(scores) for metric, scores in self.metrics.items()}
        return {
            "metrics": metrics,
            "documents": dict(self.documents),
            "lower_is_better": list(self.lower_is_better),
        }
