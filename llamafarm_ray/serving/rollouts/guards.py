"""Guards of a rollout: the evidence against each so far, and the guard that is proved broken.

A guard is broken once its evidence reaches ``k / (1 - confidence)``, with ``k`` the number of guards that are set. So a
candidate that keeps within all of them is rolled back with a probability of at most ``1 - confidence``, over the whole
rollout and however often it is looked at (Ville's inequality, and the union bound over guards).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from llamafarm_ray.registry.governance.policy import Policy, violations
from llamafarm_ray.registry.rollouts import Guards
from llamafarm_ray.registry.state import RolloutRecord, VersionRecord
from llamafarm_ray.serving.rollouts.sequential import ODDS, Logs, log_mixture, log_odds_evidence, log_rate_evidence
from llamafarm_ray.serving.telemetry.rollout_observations import GROWTH, Sample, Window

__all__ = ["Evidence", "GuardEvidence", "VersionAt", "broken_guard", "guard_evidence"]

VersionAt = Callable[[str], VersionRecord | None]
"""Gives what an alias of a model points at."""

_QUANTILE: Final = 0.95
_MIN_LATENCIES = 100
"""So many of the baseline's latencies tell where its 95th percentile is."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a controller must keep of earlier windows; plain numbers, so that it can be kept anywhere.

    Attributes:
        baseline: statistics of the baseline, all windows together.
        step: the plan's step that ``step_requests`` is about.
        step_requests: the candidate's requests in windows that began in that step.
        logs: by guard, the log likelihood ratio of each alternative.
    """

    baseline: Sample = field(default_factory=Sample)
    candidate: Sample = field(default_factory=Sample)
    step: int = 0
    step_requests: int = 0
    logs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def after(self, window: Window, rollout: RolloutRecord) -> Evidence:
        """The evidence with a window more, which must be later than all before it."""
        found = dict(self.logs)
        for guard, logs in _weigh(rollout.plan.guards, window, self.baseline):
            before = found.get(guard, (0.0,) * len(ODDS))
            found[guard] = tuple(float(old + new) for old, new in zip(before, logs, strict=True))
        step_requests = self.step_requests if self.step == rollout.step else 0
        if window.start >= rollout.step_since:
            step_requests += window.candidate.requests
        return replace(
            self,
            baseline=self.baseline + window.baseline,
            candidate=self.candidate + window.candidate,
            step=rollout.step,
            step_requests=step_requests,
            logs=found,
        )

    def requests_in(self, rollout: RolloutRecord) -> int:
        """The requests that the candidate had in the rollout's current step."""
        return self.step_requests if self.step == rollout.step else 0


def broken_guard(
    rollout: RolloutRecord,
    evidence: Evidence,
    candidate: VersionRecord,
    version_at: VersionAt = lambda _: None,
) -> str | None:
    """Return the reason in words that the candidate must go, or ``None``.

    Args:
        candidate: the candidate, for its evaluation results: one that fails, or was measured again and fails now.
        version_at: gives what an alias of the model points at, for goals that compare with it.
    """
    guards = rollout.plan.guards
    rules = Policy(metrics={**guards.metrics})
    failed = violations(rules, candidate, promoter="", approvers=(), version_at=version_at)
    if failed:
        return "; ".join(violation.message for violation in failed)
    for guard in guard_evidence(guards, evidence):
        if guard.share >= 1:
            return f"{_SAID[guard.name](guards, evidence)} (at {guards.confidence:.4g} confidence)"
    return None


@dataclass(frozen=True, slots=True)
class GuardEvidence:
    """Evidence against a guard.

    Attributes:
        measured: the measured value, all requests together; ``None`` where that is not known yet.
        share: the evidence against the candidate over that which breaks the guard, both as logarithms, so that equal
            requests add equal parts; 0 where there is none, 1 and more where it is broken.
    """

    name: str
    limit: float
    measured: float | None
    share: float


def guard_evidence(guards: Guards, evidence: Evidence) -> list[GuardEvidence]:
    """Return the evidence against each guard that is set and applies to the observed requests."""
    active = [guard for guard in _SAID if getattr(guards, guard) is not None]
    enough = math.log(max(len(active), 1) / (1 - guards.confidence))
    return [
        GuardEvidence(
            guard,
            getattr(guards, guard),
            _MEASURED[guard](evidence.candidate, evidence.baseline),
            max(0.0, log_mixture(evidence.logs[guard]) / enough) if guard in evidence.logs else 0.0,
        )
        for guard in active
    ]


def _weigh(guards: Guards, window: Window, seen: Sample) -> Iterator[tuple[str, Logs]]:
    """Yield a window's evidence against each guard that is set; ``seen`` is the baseline before it."""
    candidate, baseline = window.candidate, window.baseline
    if guards.max_error_rate is not None:
        yield "max_error_rate", log_rate_evidence(candidate.errors, candidate.requests, rate=guards.max_error_rate)
    if guards.max_error_ratio is not None:
        yield (
            "max_error_ratio",
            log_odds_evidence(
                candidate.errors,
                candidate.requests,
                baseline.errors,
                baseline.requests,
                odds_ratio=guards.max_error_ratio,
            ),
        )
    if guards.max_latency_ratio is not None and seen.latencies.count >= _MIN_LATENCIES:
        # A candidate that is at most so many times as slow exceeds so many times the baseline's percentile at most as
        # often as the baseline exceeds it. The percentile was known before the window: nothing is fitted to it.
        limit = seen.latencies.bucket_of(_QUANTILE)
        slower = math.ceil(round(math.log(guards.max_latency_ratio) / math.log(GROWTH), 6))
        yield (
            "max_latency_ratio",
            log_odds_evidence(
                candidate.latencies.count_above(limit + slower),
                candidate.latencies.count,
                baseline.latencies.count_above(limit),
                baseline.latencies.count,
                odds_ratio=1,
            ),
        )
    if guards.min_feedback is not None:
        ratings = candidate.ratings
        yield (
            "min_feedback",
            log_rate_evidence(ratings.count - ratings.total, ratings.count, rate=1 - guards.min_feedback),
        )


def _odds_ratio(candidate: Sample, baseline: Sample) -> float | None:
    below = baseline.errors * (candidate.requests - candidate.errors)
    return candidate.errors * (baseline.requests - baseline.errors) / below if below else None


def _latency_ratio(candidate: Sample, baseline: Sample) -> float | None:
    if not candidate.latencies.count or not baseline.latencies.count:
        return None
    return candidate.latencies.quantile_s(_QUANTILE) / baseline.latencies.quantile_s(_QUANTILE)


_MEASURED: Final[Mapping[str, Callable[[Sample, Sample], float | None]]] = {
    "max_error_rate": lambda candidate, _: candidate.error_rate if candidate.requests else None,
    "max_error_ratio": _odds_ratio,
    "max_latency_ratio": _latency_ratio,
    "min_feedback": lambda candidate, _: candidate.ratings.mean if candidate.ratings.count else None,
}


def _errors(sample: Sample) -> str:
    return f"{sample.errors:,} of {sample.requests:,} requests failed ({sample.error_rate:.2%})"


def _p95(sample: Sample) -> str:
    return f"{sample.latencies.quantile_s(_QUANTILE):.3g} s"


_SAID: Final[Mapping[str, Callable[[Guards, Evidence], str]]] = {
    "max_error_rate": lambda guards, seen: (
        f"{_errors(seen.candidate)}, and {guards.max_error_rate:.4g} may at most: guard max_error_rate"
    ),
    "max_error_ratio": lambda guards, seen: (
        f"{_errors(seen.candidate)}, and of the baseline's {_errors(seen.baseline)}: "
        f"more than {guards.max_error_ratio:g} times its odds: guard max_error_ratio"
    ),
    "max_latency_ratio": lambda guards, seen: (
        f"the 95th percentile of latency is {_p95(seen.candidate)}, and the baseline's {_p95(seen.baseline)}: "
        f"more than {guards.max_latency_ratio:g} times it: guard max_latency_ratio"
    ),
    "min_feedback": lambda guards, seen: (
        f"{seen.candidate.ratings.count:,} ratings have a mean of {seen.candidate.ratings.mean:.3g}, below "
        f"{guards.min_feedback:g}: guard min_feedback"
    ),
}
