"""Commands about rollouts: start, advance, pause, promote and roll back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llamafarm_ray.errors import ConflictError, PolicyError
from llamafarm_ray.registry.commands.aliases import check_policy
from llamafarm_ray.registry.commands.base import Context, OfAlias, OfVersion, event_of
from llamafarm_ray.registry.events import (
    AliasMoved,
    Event,
    RolloutPaused,
    RolloutResumed,
    RolloutStarted,
    RolloutStepped,
    RolloutStopped,
)
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.governance.policy import Policy, violations
from llamafarm_ray.registry.rollouts import Plan
from llamafarm_ray.registry.state import RegistryState, RolloutRecord, VersionRecord
from llamafarm_ray.types import ModelRef

__all__ = ["PauseRollout", "PromoteRollout", "ResumeRollout", "StartRollout", "StepRollout", "StopRollout"]


@dataclass(frozen=True)
class StartRollout(OfVersion):
    """Split an alias's requests between its target and this version."""

    action = Action.ROLL_OUT
    alias: str
    plan: Plan

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event.

        Raises:
            ConflictError: another rollout is under way, the candidate is what the alias points at, ...
            PolicyError: the alias may not point at the candidate, so its users don't get to see it either; or a result
                that the plan's guards ask for is missing.
        """
        candidate = state.resolve(self.ref)
        baseline = state.resolve(ModelRef(self.ref.name, alias=self.alias))
        _check_fit(candidate, baseline)
        check_policy(state, candidate, self.alias, context)
        _check_metrics(state, candidate, self.plan)
        number = len(state.rollouts.get(f"{self.ref.name}@{self.alias}", ())) + 1
        return [
            event_of(
                RolloutStarted,
                model=self.ref.name,
                alias=self.alias,
                number=number,
                baseline=baseline.registered.version,
                candidate=candidate.registered.version,
                plan=self.plan,
            )
        ]


@dataclass(frozen=True)
class _OfRollout(OfAlias):
    """A command about the rollout of an alias: the newest one, or that of a number."""

    action = Action.ROLL_OUT
    number: int | None = None

    def _rollout(self, state: RegistryState) -> RolloutRecord:
        return state.rollout(self.model, self.alias, self.number)

    def _check_policy(self, state: RegistryState, context: Context) -> None:
        """Check that the alias's rules, as they are now, still let the candidate through.

        Raises:
            PolicyError: they don't; which rule, and with which value.
        """
        rollout = self._rollout(state)
        if context.is_strict and rollout.status.is_under_way:
            check_policy(state, state.version(rollout.model, rollout.candidate), self.alias, context)

    def _names(self, state: RegistryState) -> dict[str, str | int]:
        return {"model": self.model, "alias": self.alias, "number": self._rollout(state).number}


@dataclass(frozen=True)
class StepRollout(_OfRollout):
    """Give the candidate the share of the plan's next step.

    Attributes:
        step: the index of that step; by default the one after the current.
    """

    step: int | None = None

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """Return one event.

        Raises:
            PolicyError: the alias's rules don't let the candidate through any more.
        """
        self._check_policy(state, context)
        step = self._rollout(state).step + 1 if self.step is None else self.step
        return [event_of(RolloutStepped, **self._names(state), step=step)]


class _Switch(_OfRollout):
    """A command that changes nothing but the status."""

    event: ClassVar[type[RolloutPaused | RolloutResumed]]

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        return [event_of(self.event, **self._names(state))]


class PauseRollout(_Switch):
    """Keep the split as it is. Guards go on guarding."""

    event = RolloutPaused


class ResumeRollout(_Switch):
    """Go on with a paused rollout."""

    event = RolloutResumed

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """Return one event.

        Raises:
            PolicyError: the alias's rules don't let the candidate through any more.
        """
        self._check_policy(state, context)
        return super().decide(state, context)


@dataclass(frozen=True)
class PromoteRollout(_OfRollout):
    """Point the alias at the candidate, if the alias's policy still allows it. That ends the rollout."""

    action = Action.MOVE_ALIAS

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event: the alias's move."""
        rollout = self._rollout(state)
        if not rollout.status.is_under_way:
            raise ConflictError(f"The rollout {rollout.id} is over: it was {rollout.status.words}.")
        check_policy(state, state.version(rollout.model, rollout.candidate), self.alias, context)
        return [event_of(AliasMoved, model=self.model, alias=self.alias, version=rollout.candidate)]


@dataclass(frozen=True)
class StopRollout(_OfRollout):
    """Send all requests to the baseline again.

    Attributes:
        is_rollback: because the candidate is worse, as opposed to somebody's wish.
    """

    is_rollback: bool = False

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        return [event_of(RolloutStopped, **self._names(state), is_rollback=self.is_rollback)]


def _check_fit(candidate: VersionRecord, baseline: VersionRecord) -> None:
    """Check that a server of the one version can serve the other."""
    ours, theirs = candidate.registered, baseline.registered
    if (ours.kind, ours.base_digest) != (theirs.kind, theirs.base_digest):
        raise ConflictError(
            f"{candidate.ref} ({ours.kind} on {ours.base_model or 'no base'}) can't take requests from {baseline.ref} "
            f"({theirs.kind} on {theirs.base_model or 'no base'}): no application serves both.",
            hint="Deploy it, and promote it there.",
        )


def _check_metrics(state: RegistryState, candidate: VersionRecord, plan: Plan) -> None:
    found = violations(
        Policy(metrics={**plan.guards.metrics}),
        candidate,
        promoter="",
        approvers=(),
        version_at=lambda alias: state.at_alias(candidate.registered.model, alias),
    )
    if found:
        raise PolicyError(
            f"{candidate.ref} may not be rolled out: {'; '.join(violation.message for violation in found)}.",
            rules=("metrics",),
            hint="Record its results with `llamafarm models record-metrics`, or change the plan's guards.",
        )
