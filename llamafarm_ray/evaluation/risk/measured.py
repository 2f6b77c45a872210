"""Risk tests: probes with a name, a method and a sample, and the scores that replies to them give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llamafarm_ray.evaluation.comparison import Clusters, PairedScores, interval_of, rate_interval
from llamafarm_ray.evaluation.risk.probes import Probe

__all__ = ["RateTest", "RiskScores", "RiskTest", "by_group", "means_of", "paired"]

Outcomes = Mapping[int, float]
"""Outcomes by the places of their probes; without those that were not asked."""


@dataclass(frozen=True, slots=True)
class RiskScores:
    """Scores of a risk test.

    Args:
        metrics: by name; the first one is the test's. Empty if nothing could be measured.
        intervals: ends of the 95 % confidence intervals by metric.
        num_examples: probes that the first metric is computed from.
        each: values whose mean is the first metric, by place, for comparisons with another model.
        reason: the reason why there are no metrics.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    num_examples: int = 0
    each: Outcomes = field(default_factory=dict)
    reason: str = ""


class RiskTest(Protocol):
    """A risk test."""

    @property
    def name(self) -> str:
        """Its name among the results."""

    @property
    def method(self) -> str:
        """One sentence on the prompts and the scoring."""

    @property
    def sample(self) -> str:
        """Name of the set of prompts."""

    @property
    def probes(self) -> Sequence[Probe]:
        """The prompts."""

    @property
    def higher_is_better(self) -> bool:
        """Direction of the first metric."""

    def score(self, outcomes: Outcomes) -> RiskScores:
        """Return the scores of outcomes."""


@dataclass(frozen=True, slots=True)
class RateTest:
    """A risk test whose score is the share of probes with a failure, as a whole and by group.

    Args:
        name: see `RiskTest`.
        metric: name of the share.
        method: see `RiskTest`.
        sample: likewise.
        probes: likewise; their outcomes are 0 and 1.
        higher_is_better: direction of the share.
    """

    name: str
    metric: str
    method: str
    sample: str
    probes: tuple[Probe, ...]
    higher_is_better: bool = False

    def score(self, outcomes: Outcomes) -> RiskScores:
        """See `RiskTest.score`."""
        if not outcomes:
            return RiskScores(reason="no prompt fits the model")
        metrics, intervals = means_of(self.probes, by_group(self.metric, self.probes, outcomes))
        return RiskScores(metrics, intervals, len(outcomes), outcomes)


def by_group(metric: str, probes: Sequence[Probe], outcomes: Outcomes) -> dict[str, Outcomes]:
    """Return the outcomes of a metric as a whole, and those of each group as ``metric_group``."""
    found: dict[str, dict[int, float]] = {metric: dict(outcomes)}
    for at, outcome in outcomes.items():
        if probes[at].group:
            found.setdefault(f"{metric}_{probes[at].group}", {})[at] = outcome
    return dict(found)


def means_of(
    probes: Sequence[Probe], named: Mapping[str, Outcomes]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return the mean of each metric's outcomes, and its interval where one is known.

    Probes of one cluster depend on each other; the mean of numbers in a single cluster has no interval.
    """
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for name, outcomes in named.items():
        values = list(outcomes.values())
        clusters = [probes[at].cluster or probes[at].id for at in outcomes]
        metrics[name] = math.fsum(values) / len(values)
        if {*values} <= {0.0, 1.0}:
            intervals[name] = rate_interval(values, clusters)
        elif len({*clusters}) > 1:
            intervals[name] = interval_of(Clusters.of(values, clusters))
    return metrics, intervals


def paired(test: RiskTest, ours: RiskScores, theirs: RiskScores) -> PairedScores | None:
    """Return what both models' first metrics are the means of, on the same probes; None if there are none."""
    both = [at for at in ours.each if at in theirs.each]
    if not both:
        return None
    clusters = [test.probes[at].cluster or test.probes[at].id for at in both]
    first, second = ([one.each[at] for at in both] for one in (ours, theirs))
    return PairedScores(first, second, clusters, test.higher_is_better)
