"""Decisions about rollouts: a function of record, evidence and time, and the loop step that carries them out."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import logging
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial

from llamafarm_ray.errors import DeploymentError, LlamaFarmError, PolicyError
from llamafarm_ray.registry.api import RegistryApi
from llamafarm_ray.registry.commands import Command, PauseRollout, PromoteRollout, StepRollout, StopRollout
from llamafarm_ray.registry.rollouts import AbPlan, RolloutStatus
from llamafarm_ray.registry.state import RolloutRecord, VersionRecord
from llamafarm_ray.serving.rollouts.ab import Gain, compare, num_measured
from llamafarm_ray.serving.rollouts.guards import Evidence, VersionAt, broken_guard
from llamafarm_ray.serving.rollouts.progress import RolloutProgress, progress_of
from llamafarm_ray.serving.telemetry.rollout_observations import Observations

__all__ = ["Decision", "Move", "RolloutController", "carry_out", "decide"]

logger = logging.getLogger(__name__)

_QUICK_LOAD_S = 1.0
"""A turn waits so long for a load; guards must go on guarding while a longer one lasts."""


class Move(enum.StrEnum):
    """Possible moves of a rollout."""

    STAY = "stay"
    STEP = "step"
    PROMOTE = "promote"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision about a rollout, with its reason in words."""

    move: Move
    reason: str


_NO_DECISION = Decision(Move.STAY, "")


def decide(
    rollout: RolloutRecord,
    evidence: Evidence,
    candidate: VersionRecord,
    now: dt.datetime,
    version_at: VersionAt = lambda _: None,
) -> Decision:
    """Decide about a running rollout.

    A broken guard rolls back, also a paused rollout. Otherwise a paused one stays; an A/B rollout ends once it is known
    which variant is better, or that ``max_requests`` were not enough to tell; the others go on once a step had its
    dwell and the candidate ``min_requests`` in it.

    Args:
        evidence: evidence on both variants.
        candidate: the candidate's record, for its evaluation results.
        version_at: gives what an alias of the model points at, for guards that compare with it.
    """
    broken = broken_guard(rollout, evidence, candidate, version_at)
    if broken is not None:
        return Decision(Move.ROLL_BACK, broken)
    if rollout.status is RolloutStatus.PAUSED:
        return Decision(Move.STAY, "it is paused")
    if isinstance(rollout.plan, AbPlan):
        return _decide_ab(rollout.plan, evidence)
    return _decide_step(rollout, evidence, now)


def _decide_step(rollout: RolloutRecord, evidence: Evidence, now: dt.datetime) -> Decision:
    plan, step = rollout.plan, rollout.steps[rollout.step]
    requests, lasted_s = evidence.requests_in(rollout), (now - rollout.step_since).total_seconds()
    if requests < plan.min_requests:
        return Decision(Move.STAY, f"the candidate had {requests:,} of {plan.min_requests:,} requests at this step")
    if lasted_s < step.dwell_s:
        return Decision(Move.STAY, f"this step has {step.dwell_s - lasted_s:,.0f} s to go")
    good = f"{requests:,} requests in {lasted_s:,.0f} s at {step.percent:g} %, and no guard was broken"
    if rollout.step + 1 < len(rollout.steps):
        return Decision(Move.STEP, good)
    return _good_end(good, is_automatic=plan.automatic)


def _decide_ab(plan: AbPlan, evidence: Evidence) -> Decision:
    measured = min(num_measured(plan.metric, sample) for sample in (evidence.baseline, evidence.candidate))
    if measured >= plan.min_requests:
        gain = compare(plan.metric, evidence.baseline, evidence.candidate, confidence=plan.confidence)
        if gain.winner == "candidate":
            return _good_end(f"the candidate is better: {_said(plan, gain)}", is_automatic=plan.automatic)
        if gain.winner == "baseline":
            return Decision(Move.ROLL_BACK, f"the baseline is better: {_said(plan, gain)}")
    requests = evidence.baseline.requests + evidence.candidate.requests
    if requests >= plan.max_requests:
        return Decision(Move.ROLL_BACK, f"{requests:,} requests show no difference in {plan.metric}")
    more = _more(plan, evidence) if measured else ""
    reason = f"{measured:,} requests of each variant measured, which is not enough to tell them apart{more}"
    return Decision(Move.STAY, reason)


def _more(plan: AbPlan, evidence: Evidence) -> str:
    """Return how many more requests would decide a difference of the present size, in words."""
    more = compare(plan.metric, evidence.baseline, evidence.candidate, confidence=plan.confidence).more_needed
    return "" if more is None else f"; about {more:,} more would decide a difference of the present size"


def _good_end(reason: str, *, is_automatic: bool) -> Decision:
    if is_automatic:
        return Decision(Move.PROMOTE, reason)
    return Decision(Move.STAY, f"{reason}; it waits for somebody to promote it")


def _said(plan: AbPlan, gain: Gain) -> str:
    low, estimate, high = gain.low, gain.estimate, gain.high
    sure = f"(at {plan.confidence:.4g} confidence)"
    if plan.metric == "latency":
        return f"{math.exp(estimate):.3g} times as fast, {math.exp(low):.3g} to {math.exp(high):.3g} {sure}"
    what = "rating" if plan.metric == "feedback" else "error rate, lower"
    return f"{what} by {estimate:.3g}, {low:.3g} to {high:.3g} {sure}"


def carry_out(registry: RegistryApi, rollout: RolloutRecord, decision: Decision) -> None:
    """Carry out a decision; repeats after a controller was killed have no further effect.

    A step or promotion that the alias's policy forbids by now pauses the rollout, for somebody to look at.

    Raises:
        ConflictError: somebody else changed the rollout since it was decided about.
    """
    if decision.move is Move.STAY:
        return
    at = (rollout.model, rollout.alias, rollout.number)
    commands: dict[Move, Command] = {
        Move.STEP: StepRollout(*at, rollout.step + 1),
        Move.PROMOTE: PromoteRollout(*at),
        Move.ROLL_BACK: StopRollout(*at, is_rollback=True),
    }
    key = f"{rollout.id} {len(rollout.changes)} {decision.move}"
    try:
        registry.submit(commands[decision.move], reason=decision.reason, idempotency_key=key)
    except PolicyError as error:
        registry.submit(PauseRollout(*at), reason=f"{decision.reason}, but: {error.message}")


async def _nothing_to_load(_reference: str) -> None:
    """For those who only look on."""


class RolloutController:
    """Takes every rollout under way a turn further.

    A process that calls :meth:`turn` now and then is a live controller.

    It may die at any moment, and several may run: what was decided is in the registry, what was seen comes from
    ``observations`` again, and of two that decide the same the second changes nothing.

    Args:
        observations: source of the variants' statistics.
        load: has every replica load a version (``name:version``) and returns when they have. It is called when a
            rollout is first seen, and again before each step and promotion, as replicas may have come meanwhile.
        serves: returns True for a candidate that is served where ``load`` loads; others' rollouts are left alone.
    """

    def __init__(
        self,
        registry: RegistryApi,
        observations: Observations,
        *,
        load: Callable[[str], Awaitable[object]] = _nothing_to_load,
        serves: Callable[[VersionRecord], bool] = lambda _: True,
    ) -> None:
        self._registry = registry
        self._observations = observations
        self._load = load
        self._serves = serves
        self._seen: dict[str, tuple[Evidence, dt.datetime]] = {}
        self._loads: dict[tuple[str, int, Move], asyncio.Future[object]] = {}
        self._decisions: dict[str, Decision] = {}
        self._troubles: dict[str, str] = {}

    def progress(self) -> dict[str, RolloutProgress]:
        """Return the progress of each running rollout by its id, as of the last turn."""
        found = {}
        for rollout in self._registry.state.rollouts_under_way():
            if rollout.id in self._seen:
                evidence, until = self._seen[rollout.id]
                decided = self._troubles.get(rollout.id) or self._decisions.get(rollout.id, _NO_DECISION).reason
                found[rollout.id] = progress_of(rollout, evidence, until, decided)
        return found

    async def turn(self, now: dt.datetime) -> dict[str, Decision]:
        """Observe, decide and act once; return the decisions by the rollout's id.

        A rollout that can't be observed or changed is told to the log, and does not hold up the others.
        """
        state = await asyncio.to_thread(self._registry.refresh)
        candidates = (
            (rollout, state.version(rollout.model, rollout.candidate)) for rollout in state.rollouts_under_way()
        )
        under_way = [(rollout, candidate) for rollout, candidate in candidates if self._serves(candidate)]
        self._forget_all_but({rollout.id for rollout, _ in under_way})
        decisions = {}
        for rollout, candidate in under_way:
            try:
                evidence = await self._observe(rollout)
                version_at = partial(state.at_alias, rollout.model)
                decided = decide(rollout, evidence, candidate, now, version_at)
                decision = await self._once_loaded(rollout, candidate, decided)
                decisions[rollout.id] = self._decisions[rollout.id] = decision
                await asyncio.to_thread(carry_out, self._registry, rollout, decision)
                self._troubles.pop(rollout.id, None)
            except LlamaFarmError as error:  # somebody was faster, or something is down: the next turn sees
                if self._troubles.get(rollout.id) != str(error):  # once, not every second
                    logger.warning("The rollout %s could not be taken further: %s", rollout.id, error)
                self._troubles[rollout.id] = str(error)
        return decisions

    async def _observe(self, rollout: RolloutRecord) -> Evidence:
        evidence, until = self._seen.get(rollout.id, (Evidence(), rollout.changes[0].time))
        for window in await self._observations.windows(rollout, until):
            evidence, until = evidence.after(window, rollout), window.end
        self._seen[rollout.id] = (evidence, until)
        return evidence

    async def _once_loaded(self, rollout: RolloutRecord, candidate: VersionRecord, decision: Decision) -> Decision:
        """The decision once the candidate is loaded; until then to stay, and to roll back if it can't be.

        Raises:
            DeploymentError: nothing runs that could load it, which says nothing of the candidate.
        """
        if decision.move is Move.ROLL_BACK:
            return decision
        key = (rollout.id, rollout.step, decision.move)
        if key not in self._loads:
            self._loads[key] = asyncio.ensure_future(self._load(candidate.ref))
            await asyncio.wait({self._loads[key]}, timeout=_QUICK_LOAD_S)
        load = self._loads[key]
        if not load.done():
            return Decision(Move.STAY, f"the replicas are loading {candidate.ref}")
        try:
            load.result()
        except DeploymentError:
            del self._loads[key]
            raise
        except LlamaFarmError as error:
            return Decision(Move.ROLL_BACK, f"it can't be loaded: {error}")
        return decision

    def _forget_all_but(self, under_way: Collection[str]) -> None:
        self._seen = {known: seen for known, seen in self._seen.items() if known in under_way}
        self._decisions = {known: made for known, made in self._decisions.items() if known in under_way}
        self._troubles = {known: told for known, told in self._troubles.items() if known in under_way}
        for key in [key for key in self._loads if key[0] not in under_way]:
            self._loads.pop(key).cancel()
