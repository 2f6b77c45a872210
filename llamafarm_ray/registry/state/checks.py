"""Checks of an event against a state, which hold in every registry."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from llamafarm_ray.errors import ConflictError
from llamafarm_ray.registry import events
from llamafarm_ray.registry.rollouts import RolloutStatus
from llamafarm_ray.registry.state.records import RolloutRecord, VersionRecord, find
from llamafarm_ray.types import ModelRef

if TYPE_CHECKING:
    from llamafarm_ray.registry.state.whole import RegistryState

__all__ = ["check"]


@singledispatch
def check(event: Any, state: RegistryState) -> None:
    """Check that an event may follow a state. An event about a version needs that version."""
    if hasattr(event, "version"):
        state.version(event.model, event.version)


@check.register(events.VersionRegistered)
def _(event: events.VersionRegistered, state: RegistryState) -> None:
    model = state.models.get(event.model)
    if model is not None and event.version in model.versions:
        raise ConflictError(
            f"{event.model}:{event.version} is registered already, and a version never changes.",
            hint=f"The highest is {model.latest.registered.version}: register a higher one.",
        )


@check.register(events.AliasMoved)
def _(event: events.AliasMoved, state: RegistryState) -> None:
    record = state.version(event.model, event.version)
    if record.retired is not None:
        raise ConflictError(f"{record.ref} is retired, so {event.alias!r} can't point at it.")


@check.register(events.AliasRemoved)
def _(event: events.AliasRemoved, state: RegistryState) -> None:
    state.resolve(ModelRef(event.model, alias=event.alias))


@check.register(events.VersionRetired)
def _(event: events.VersionRetired, state: RegistryState) -> None:
    """Nothing may point at a version that ends, and nothing that an alias points at may rest on it."""
    record = state.version(event.model, event.version)
    if record.retired is not None:
        raise ConflictError(f"{record.ref} is retired already.")
    aliases = state.models[event.model].pointing_at(event.version)
    if aliases:
        raise ConflictError(
            f"{record.ref} can't end: {', '.join(aliases)} points at it.",
            hint="Move that alias, or remove it with `llamafarm models unalias`.",
        )
    for rollout in state.rollouts_under_way():
        if (rollout.model, rollout.candidate) == (event.model, event.version):
            raise ConflictError(
                f"{record.ref} can't end: it is being rolled out to {rollout.target}.", hint=_abort(rollout)
            )
    _check_not_deployed(record, state)
    if any(
        other.retired is None and other.ref != record.ref for other in state.with_content(record.registered.manifest)
    ):
        return
    for resting, why in _in_use(state):
        if resting.registered.base_digest == record.registered.manifest:
            raise ConflictError(
                f"{record.ref} can't end: {resting.ref}, which {why}, is based on it.", hint="Move that alias first."
            )


@check.register(events.RolloutStarted)
def _(event: events.RolloutStarted, state: RegistryState) -> None:
    """The candidate lives, is another version than the one the alias points at, and is the only one rolled out."""
    candidate = state.version(event.model, event.candidate)
    target = f"{event.model}@{event.alias}"
    pointed_at = state.resolve(ModelRef(event.model, alias=event.alias)).registered.version
    if candidate.retired is not None:
        raise ConflictError(f"{candidate.ref} is retired, so it can't be rolled out.")
    if event.baseline != pointed_at:
        raise ConflictError(f"{target} points at {pointed_at}, not at {event.baseline}.")
    if event.candidate == event.baseline:
        raise ConflictError(f"{target} points at {candidate.ref} already.", hint="Roll out another version.")
    under_way = state.rollout_under_way(event.model, event.alias)
    if under_way is not None:
        raise ConflictError(f"{under_way.candidate} is being rolled out to {target} already.", hint=_abort(under_way))
    expected = len(state.rollouts.get(target, ())) + 1
    if event.number != expected:
        raise ConflictError(f"The next rollout of {target} is number {expected}, not {event.number}.")


@check.register(events.RolloutStepped)
def _(event: events.RolloutStepped, state: RegistryState) -> None:
    rollout = _under_way(event, state)
    if rollout.status is RolloutStatus.PAUSED:
        raise ConflictError(f"The rollout {rollout.id} is paused.", hint="Resume it first.")
    if event.step >= len(rollout.steps):
        raise ConflictError(f"The rollout {rollout.id} has {len(rollout.steps)} steps, and all were taken.")
    if event.step != rollout.step + 1:
        raise ConflictError(
            f"The rollout {rollout.id} is at step {rollout.step + 1}, which step {event.step + 1} does not follow."
        )


@check.register(events.RolloutPaused)
def _(event: events.RolloutPaused, state: RegistryState) -> None:
    rollout = _under_way(event, state)
    if rollout.status is RolloutStatus.PAUSED:
        raise ConflictError(f"The rollout {rollout.id} is paused already.")


@check.register(events.RolloutResumed)
def _(event: events.RolloutResumed, state: RegistryState) -> None:
    rollout = _under_way(event, state)
    if rollout.status is not RolloutStatus.PAUSED:
        raise ConflictError(f"The rollout {rollout.id} is not paused: it is {rollout.status}.")


@check.register(events.RolloutStopped)
def _(event: events.RolloutStopped, state: RegistryState) -> None:
    _under_way(event, state)


@check.register(events.VersionPurged)
def _(event: events.VersionPurged, state: RegistryState) -> None:
    record = state.version(event.model, event.version)
    if record.retired is None:
        raise ConflictError(f"{record.ref} is not retired.", hint="Retire it first.")
    _check_not_deployed(record, state)


@check.register(events.DeploymentRecorded)
def _(event: events.DeploymentRecorded, state: RegistryState) -> None:
    served = [state.resolve(ModelRef.parse(reference)) for reference in event.adapters]
    bases = list(state.with_content(event.base_digest))
    ended = [record for record in served if record.retired is not None]
    if bases and all(record.retired is not None for record in bases):
        ended += bases[:1]
    if ended:
        raise ConflictError(f"{ended[0].ref} is retired, so it can't be deployed.", hint="Deploy another version.")


@check.register(events.DeploymentRemoved)
def _(event: events.DeploymentRemoved, state: RegistryState) -> None:
    find(state.deployments, event.application, "deployment")


@check.register(events.PrincipalAdded)
def _(event: events.PrincipalAdded, state: RegistryState) -> None:
    if event.name in state.principals and not state.principals[event.name].revoked:
        raise ConflictError(f"There is a principal {event.name!r} already.", hint="Revoke it first.")


@check.register(events.PrincipalGranted)
def _(event: events.PrincipalGranted, state: RegistryState) -> None:
    find(state.principals, event.name, "principal")


@check.register(events.PrincipalRevoked)
def _(event: events.PrincipalRevoked, state: RegistryState) -> None:
    find(state.principals, event.name, "principal")


def _in_use(state: RegistryState) -> Iterator[tuple[VersionRecord, str]]:
    """The versions that requests to an alias may get, and why."""
    for model in state.models.values():
        for moves in model.aliases.values():
            yield model.versions[moves[-1].version], "an alias points at"
    for rollout in state.rollouts_under_way():
        yield state.version(rollout.model, rollout.candidate), f"is being rolled out to {rollout.target}"


def _under_way(event: Any, state: RegistryState) -> RolloutRecord:
    """The rollout that an event is about, which must not be over."""
    rollout = state.rollout(event.model, event.alias, event.number)
    if not rollout.status.is_under_way:
        raise ConflictError(
            f"The rollout {rollout.id} is over: it was {rollout.status.words}.", hint="Start another one."
        )
    return rollout


def _abort(rollout: RolloutRecord) -> str:
    return f"`llamafarm models rollout abort {rollout.model} --env {rollout.alias}` ends that."


def _check_not_deployed(record: VersionRecord, state: RegistryState) -> None:
    for deployment in state.deployments.values():
        if record.registered.manifest == deployment.base_digest or record.ref in deployment.adapters:
            raise ConflictError(
                f"{record.ref} can't end: the deployment at {deployment.url} serves it.",
                hint="Deploy without it, or stop that deployment.",
            )
