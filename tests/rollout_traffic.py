"""Simulated traffic of a rollout: variants that do well or badly, and what is decided on them."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
from model_files import note_digest

from llamafarm_ray.registry import Guards, RolloutStatus, VersionRecord, VersionRegistered
from llamafarm_ray.registry.rollouts import CanaryPlan, ShadowPlan, Step
from llamafarm_ray.registry.state import RolloutChange, RolloutRecord
from llamafarm_ray.serving.rollouts import Decision, Evidence, Move, decide
from llamafarm_ray.serving.telemetry.rollout_observations import Histogram, Moments, Sample, Window
from llamafarm_ray.types import ModelKind

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


SECOND = dt.timedelta(seconds=1)


GUARDS = Guards(max_error_rate=0.2, max_error_ratio=1.5, max_latency_ratio=1.5, min_feedback=0.4)


STEPS = (Step(percent=5, dwell_s=60), Step(percent=25, dwell_s=60), Step(percent=50, dwell_s=60))


CANARY = CanaryPlan(steps=STEPS, guards=GUARDS, min_requests=50)


BOT = ("bot", "production")


@dataclass(frozen=True)
class Behaviour:
    """How a variant does."""

    error_rate: float = 0.01
    latency_s: float = 0.5
    rating: float = 0.8

    def sample(self, rng, num):
        errors = int(rng.binomial(num, self.error_rate))
        ratings = rng.random(num // 10) < self.rating
        latencies = rng.lognormal(np.log(self.latency_s), 0.5, num - errors)
        return Sample(num, errors, Histogram.of(latencies), Moments.of(ratings.astype(float)))


GOOD = Behaviour()


class Traffic:
    """A source of observations: windows of five seconds of simulated requests, split as the rollout says."""

    def __init__(self, seed=0, *, candidate=GOOD, baseline=GOOD, requests=500):
        self._rng = np.random.default_rng(seed)
        self._candidate, self._baseline, self._requests = candidate, baseline, requests
        self._kept = []

    def window(self, rollout, start):
        share = self._rng.binomial(self._requests, rollout.percent / 100)
        mirrored = isinstance(rollout.plan, ShadowPlan)
        return Window(
            start,
            start + 5 * SECOND,
            self._baseline.sample(self._rng, self._requests - (0 if mirrored else share)),
            self._candidate.sample(self._rng, share),
        )

    async def windows(self, _rollout, after):
        return [window for window in self._kept if window.end > after]

    def go_on(self, rollout, now):
        self._kept.append(self.window(rollout, now - 5 * SECOND))


def version(**metrics):
    registered = VersionRegistered(
        model="bot", version="1.1.0", kind=ModelKind.ADAPTER, manifest=note_digest("x"), size_bytes=1, metrics=metrics
    )
    return VersionRecord(registered, START, "ann")


def record(plan=CANARY, *, status=RolloutStatus.RUNNING, step=0):
    change = RolloutChange(status, step, START, "ann", "")
    return RolloutRecord(*BOT, 1, "1.0.0", "1.1.0", plan, START, (change,))


def watched(rollout, traffic, *, seconds=60, candidate=None):
    """The first decision that is not to stay, else the last one, and what was seen until then."""
    evidence, decision = Evidence(), Decision(Move.STAY, "")
    for number in range(seconds // 5):
        evidence = evidence.after(traffic.window(rollout, START + 5 * number * SECOND), rollout)
        decision = decide(rollout, evidence, candidate or version(), START + 5 * (number + 1) * SECOND)
        if decision.move is not Move.STAY:
            break
    return decision, evidence
