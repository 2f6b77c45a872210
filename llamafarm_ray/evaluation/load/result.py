"""Result of a simulation, in the shape of every evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.evaluation.load.outcomes import Summary, percentile
from llamafarm_ray.evaluation.load.search import Capacity
from llamafarm_ray.evaluation.result import EvaluationResult, now

__all__ = ["Satisfaction", "SimulationResult", "production_metrics"]


@dataclass(frozen=True, slots=True)
class Satisfaction:
    """Mean of users' ratings on a scale from 1 to 5, and their number."""

    mean: float
    num_ratings: int


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """A simulation's plan and figures.

    Args:
        url: the endpoint's root.
        summary: figures; of a search, those of the highest rate that kept its objectives.
        satisfaction: users' ratings of the version, where there are some.
        traffic: digest of the requests that were sent.
    """

    model_id: str
    url: str
    plan: Mapping[str, Any]
    summary: Summary | None
    capacity: Capacity | None = None
    satisfaction: Satisfaction | None = None
    traffic: str = ""

    @property
    def evaluation(self) -> EvaluationResult:
        """Return the figures in the shape of every evaluation, as ``production_metrics``."""
        metrics = production_metrics(self.summary, self.satisfaction) if self.summary is not None else None
        if metrics is not None and self.traffic:
            # Figures of other traffic are not the same measure, as scores of other questions are not.
            metrics["digests"] = {"data": self.traffic, "backend": "endpoint"}
        return EvaluationResult(self.model_id, now(), {}, production_metrics=metrics)

    def to_dict(self) -> dict[str, object]:
        """Return ``evaluation_results``, and ``simulation`` beside it."""
        simulation: dict[str, object] = {"url": self.url, "plan": dict(self.plan)}
        if self.summary is not None:
            simulation |= self.summary.to_dict()
        if self.capacity is not None:
            simulation["capacity"] = self.capacity.to_dict()
        return {**self.evaluation.to_dict(), "simulation": simulation}


def production_metrics(summary: Summary, satisfaction: Satisfaction | None = None) -> dict[str, object]:
    """Return the figures that a version keeps.

    ``latency_p95`` is a text for people (``"150ms"``), ``latency_p95_s`` the number that policies compare. Figures
    that nothing was measured for are missing.
    """
    found: dict[str, object] = {}
    if satisfaction is not None:
        found |= {"user_satisfaction": round(satisfaction.mean, 2), "num_ratings": satisfaction.num_ratings}
    found |= {"task_completion_rate": summary.task_completion_rate, "error_rate": summary.error_rate}
    p95_s = percentile(summary.latencies_s, 0.95)
    if p95_s is not None:
        found |= {"latency_p95": f"{p95_s * 1000:.0f}ms", "latency_p95_s": p95_s}
    first_s = percentile(summary.first_tokens_s, 0.95)
    if first_s is not None:
        found["time_to_first_token_p95_s"] = first_s
    return found
