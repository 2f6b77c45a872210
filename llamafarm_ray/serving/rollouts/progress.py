"""Progress of a rollout in plain numbers, as the controller reports it.

They cross from a controller of one release to a command of another. So a new field needs a default, no field changes
its meaning, and unknown fields are ignored.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict

from pydantic import BaseModel, ConfigDict

from llamafarm_ray.registry.rollouts import AbPlan
from llamafarm_ray.registry.state import RolloutRecord
from llamafarm_ray.serving.rollouts.ab import Verdict, compare, num_measured
from llamafarm_ray.serving.rollouts.guards import Evidence, guard_evidence
from llamafarm_ray.serving.telemetry.rollout_observations import Sample

__all__ = ["Comparison", "GuardProgress", "RolloutProgress", "VariantProgress", "progress_of"]

_QUANTILE = 0.95


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class VariantProgress(_Told):
    """Totals of a variant since the rollout began.

    Attributes:
        requests: number of ended requests, failed ones included.
        p95_latency_s: the 95th percentile of requests that did not fail; ``None`` where there are none.
        ratings: number of ratings, where they are read.
        mean_rating: their mean, 0 to 1; ``None`` where there are none.
    """

    requests: int = 0
    errors: int = 0
    p95_latency_s: float | None = None
    ratings: int = 0
    mean_rating: float | None = None


class GuardProgress(_Told):
    """Evidence against a guard, see :class:`~.guards.GuardEvidence`."""

    name: str
    limit: float
    measured: float | None = None
    share: float = 0.0


class Comparison(_Told):
    """Leading variant of an A/B rollout.

    Attributes:
        leader: ``candidate`` or ``baseline``; empty while nothing was measured of one of them, or they are equal.
        sureness: confidence in that, 0 to 1, at all looks together.
        needed: required confidence.
        measured: requests of the variant with fewer that told something about the metric.
        verdict: ``better``, ``worse`` or ``noise``, of the candidate, at the required confidence.
        difference: the candidate's advantage, see :class:`~.ab.Gain`; ``None`` while nothing is measured.
        low: lower end of its interval, which is valid at every look.
        high: upper end.
        more_needed: about how many more measured requests would decide a difference of this size.
    """

    metric: str
    leader: str = ""
    sureness: float = 0.0
    needed: float = 0.0
    measured: int = 0
    verdict: Verdict = "noise"
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    more_needed: int | None = None


class RolloutProgress(_Told):
    """Progress of a rollout.

    Attributes:
        until: the end of the newest window of time with a request; where there was none yet, when the rollout began.
        next: the controller's last decision in words: its next step, or the condition for it.
        guards: guards that are set, but for evaluation results.
    """

    until: dt.datetime
    next: str = ""
    baseline: VariantProgress = VariantProgress()
    candidate: VariantProgress = VariantProgress()
    step_requests: int = 0
    guards: tuple[GuardProgress, ...] = ()
    comparison: Comparison | None = None


def progress_of(rollout: RolloutRecord, evidence: Evidence, until: dt.datetime, decided: str = "") -> RolloutProgress:
    """Return the progress of a rollout by a controller's evidence.

    Args:
        until: the end of the newest window in it.
        decided: reason for the controller's last decision, in words.
    """
    return RolloutProgress(
        until=until,
        next=decided,
        baseline=_variant(evidence.baseline),
        candidate=_variant(evidence.candidate),
        step_requests=evidence.requests_in(rollout),
        guards=tuple(GuardProgress(**asdict(one)) for one in guard_evidence(rollout.plan.guards, evidence)),
        comparison=_comparison(rollout.plan, evidence) if isinstance(rollout.plan, AbPlan) else None,
    )


def _variant(sample: Sample) -> VariantProgress:
    return VariantProgress(
        requests=sample.requests,
        errors=sample.errors,
        p95_latency_s=sample.latencies.quantile_s(_QUANTILE) if sample.latencies.count else None,
        ratings=sample.ratings.count,
        mean_rating=sample.ratings.mean if sample.ratings.count else None,
    )


def _comparison(plan: AbPlan, evidence: Evidence) -> Comparison:
    measured = min(num_measured(plan.metric, sample) for sample in (evidence.baseline, evidence.candidate))
    found = Comparison(metric=plan.metric, needed=plan.confidence, measured=measured)
    if not measured:
        return found
    gain = compare(plan.metric, evidence.baseline, evidence.candidate, confidence=plan.confidence)
    leader = "candidate" if gain.estimate > 0 else "baseline" if gain.estimate < 0 else ""
    return found.model_copy(
        update={
            "leader": leader,
            "sureness": gain.sureness,
            "verdict": gain.verdict,
            "difference": gain.estimate,
            "low": gain.low,
            "high": gain.high,
            "more_needed": gain.more_needed,
        }
    )
