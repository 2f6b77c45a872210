"""The state after an event. Events are applied without checks, since the log holds facts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from immutables import Map

from llamafarm_ray.registry import events
from llamafarm_ray.registry.rollouts import RolloutStatus
from llamafarm_ray.registry.state.records import AliasMove, Principal, RolloutChange, RolloutRecord, VersionRecord

if TYPE_CHECKING:
    from llamafarm_ray.registry.events import Event
    from llamafarm_ray.registry.log import Change
    from llamafarm_ray.registry.state.whole import RegistryState

__all__ = ["after"]


def after(event: Event, state: RegistryState, change: Change) -> RegistryState:  # noqa: PLR0911 - a case for each event
    """Return the state after an event."""
    match event:
        case events.VersionRegistered():
            return state.with_version(VersionRecord(event, change.time, change.principal, tags=event.tags))
        case events.AliasMoved():
            return _move_alias(event, state, change)
        case events.AliasRemoved():
            return _remove_alias(event, state, change)
        case (
            events.RolloutStarted()
            | events.RolloutStepped()
            | events.RolloutPaused()
            | events.RolloutResumed()
            | events.RolloutStopped()
        ):
            return state.with_rollout(_rollout_after(event, state, change))
        case events.PolicySet():
            return replace(state, policies=state.policies.set(event.alias, event.policy))
        case events.QuotaSet():
            return replace(state, quotas=state.quotas.set(event.namespace, event.quota))
        case events.DatasetRegistered():
            others = [known for known in state.datasets.get(event.name, ()) if known != event]  # other paths or lineage
            return replace(state, datasets=state.datasets.set(event.name, (*others, event)))  # the newest is last
        case events.DeploymentRecorded():
            return replace(state, deployments=state.deployments.set(event.application, event))
        case events.DeploymentRemoved():
            return replace(state, deployments=state.deployments.delete(event.application))
        case events.PrincipalAdded() | events.PrincipalGranted() | events.PrincipalRevoked():
            return replace(state, principals=state.principals.set(event.name, _principal_after(event, state)))
        case events.ContentCondemned():
            condemned = {digest: number + 1 for digest, number in event.generations.items()}
            return replace(state, generations=state.generations.update(condemned))
        case events.Refused():
            return state
    return state.with_version(_version_after(event, state, change))


def _move_alias(event: events.AliasMoved, state: RegistryState, change: Change) -> RegistryState:
    model = state.models[event.model]
    move = AliasMove(event.version, change.time, change.principal, change.reason, event.is_rollback)
    moves = (*model.aliases.get(event.alias, ()), move)
    state = _end_rollout(state, event.model, event.alias, event.version, change)
    return replace(
        state, models=state.models.set(model.name, replace(model, aliases=model.aliases.set(event.alias, moves)))
    )


def _remove_alias(event: events.AliasRemoved, state: RegistryState, change: Change) -> RegistryState:
    model = state.models[event.model]
    state = _end_rollout(state, event.model, event.alias, None, change)
    moves = (*model.removed.get(event.alias, ()), *model.aliases[event.alias])
    changed = replace(model, aliases=model.aliases.delete(event.alias), removed=model.removed.set(event.alias, moves))
    return replace(state, models=state.models.set(model.name, changed))


def _end_rollout(state: RegistryState, model: str, alias: str, version: str | None, change: Change) -> RegistryState:
    """An alias that moves ends its rollout: promoted where it moves to the candidate, else aborted."""
    rollout = state.rollout_under_way(model, alias)
    if rollout is None:
        return state
    is_promotion = version == rollout.candidate
    return state.with_rollout(
        _with_status(rollout, RolloutStatus.PROMOTED if is_promotion else RolloutStatus.ABORTED, change)
    )


def _rollout_after(
    event: events.RolloutStarted
    | events.RolloutStepped
    | events.RolloutPaused
    | events.RolloutResumed
    | events.RolloutStopped,
    state: RegistryState,
    change: Change,
) -> RolloutRecord:
    if isinstance(event, events.RolloutStarted):
        started = RolloutChange(RolloutStatus.RUNNING, 0, change.time, change.principal, change.reason)
        return RolloutRecord(
            event.model,
            event.alias,
            event.number,
            event.baseline,
            event.candidate,
            event.plan,
            step_since=change.time,
            changes=(started,),
        )
    rollout = state.rollout(event.model, event.alias)
    match event:
        case events.RolloutStepped():
            return _with_status(rollout, rollout.status, change, step=event.step)
        case events.RolloutPaused():
            return _with_status(rollout, RolloutStatus.PAUSED, change)
        case events.RolloutResumed():
            return _with_status(rollout, RolloutStatus.RUNNING, change)
        case events.RolloutStopped():
            status = RolloutStatus.ROLLED_BACK if event.is_rollback else RolloutStatus.ABORTED
            return _with_status(rollout, status, change)


def _with_status(
    rollout: RolloutRecord, status: RolloutStatus, change: Change, *, step: int | None = None
) -> RolloutRecord:
    reached = rollout.step if step is None else step
    return rollout.after(RolloutChange(status, reached, change.time, change.principal, change.reason))


def _principal_after(
    event: events.PrincipalAdded | events.PrincipalGranted | events.PrincipalRevoked, state: RegistryState
) -> Principal:
    match event:
        case events.PrincipalAdded():
            before = state.principals.get(event.name)
            generation = before.generation + 1 if before is not None else 1
            return Principal(event.name, event.token_digest, Map(event.grants), event.expires, generation=generation)
        case events.PrincipalGranted():
            return replace(state.principals[event.name], grants=Map(event.grants))
        case events.PrincipalRevoked():
            return replace(state.principals[event.name], revoked=True)


def _version_after(  # noqa: PLR0911 - a case for each event
    event: events.MetricsRecorded
    | events.VersionTagged
    | events.VersionSigned
    | events.VersionDeprecated
    | events.VersionRetired
    | events.VersionPurged
    | events.PromotionApproved,
    state: RegistryState,
    change: Change,
) -> VersionRecord:
    record = state.models[event.model].versions[event.version]
    match event:
        case events.MetricsRecorded():
            later = record.later_metrics.update(event.metrics)
            return replace(record, later_metrics=later, approvals=Map())  # the approved results are out of date
        case events.VersionTagged():
            return replace(record, tags=event.tags)
        case events.VersionSigned():
            return replace(record, signatures=record.signatures.set(event.key, event))
        case events.VersionDeprecated():
            return replace(record, deprecated=event.message)
        case events.VersionRetired():
            return replace(record, retired=event.message, retired_at=change.time)
        case events.VersionPurged():
            return replace(record, purged=True)
        case events.PromotionApproved():
            given = {*record.approvals.get(event.alias, ()), state.approval_by(change.principal)}
            return replace(record, approvals=record.approvals.set(event.alias, tuple(sorted(given))))
