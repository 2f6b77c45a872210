"""The state after an event. Events are applied without checks, since the log holds facts."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from immutables import Map

from llamafarm_ray.registry.events import (
    AliasMoved,
    AliasRemoved,
    ContentCondemned,
    DatasetRegistered,
    DeploymentRecorded,
    DeploymentRemoved,
    MetricsRecorded,
    PolicySet,
    PrincipalAdded,
    PrincipalGranted,
    PrincipalRevoked,
    PromotionApproved,
    QuotaSet,
    Refused,
    RolloutPaused,
    RolloutResumed,
    RolloutStarted,
    RolloutStepped,
    RolloutStopped,
    VersionDeprecated,
    VersionPurged,
    VersionRegistered,
    VersionRetired,
    VersionSigned,
    VersionTagged,
)
from llamafarm_ray.registry.rollouts import RolloutStatus
from llamafarm_ray.registry.state.records import AliasMove, Principal, RolloutChange, RolloutRecord, VersionRecord

if TYPE_CHECKING:
    from llamafarm_ray.registry.log import Change
    from llamafarm_ray.registry.state.whole import RegistryState

__all__ = ["after"]


@singledispatch
def after(event: Any, state: RegistryState, change: Change) -> RegistryState:
    """The state after an event; for those about one version see :func:`_changed`."""
    record = state.models[event.model].versions[event.version]
    return state.with_version(_changed(event, record, change))


@after.register(VersionRegistered)
def _(event: VersionRegistered, state: RegistryState, change: Change) -> RegistryState:
    return state.with_version(VersionRecord(event, change.time, change.principal, tags=event.tags))


@after.register(AliasMoved)
def _(event: AliasMoved, state: RegistryState, change: Change) -> RegistryState:
    model = state.models[event.model]
    move = AliasMove(event.version, change.time, change.principal, change.reason, event.is_rollback)
    moves = (*model.aliases.get(event.alias, ()), move)
    state = _end_rollout(state, event.model, event.alias, event.version, change)
    return replace(
        state, models=state.models.set(model.name, replace(model, aliases=model.aliases.set(event.alias, moves)))
    )


@after.register(AliasRemoved)
def _(event: AliasRemoved, state: RegistryState, change: Change) -> RegistryState:
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
    return _with_status(state, rollout, RolloutStatus.PROMOTED if is_promotion else RolloutStatus.ABORTED, change)


def _with_status(
    state: RegistryState, rollout: RolloutRecord, status: RolloutStatus, change: Change, *, step: int | None = None
) -> RegistryState:
    reached = rollout.step if step is None else step
    return state.with_rollout(
        rollout.after(RolloutChange(status, reached, change.time, change.principal, change.reason))
    )


@after.register(RolloutStarted)
def _(event: RolloutStarted, state: RegistryState, change: Change) -> RegistryState:
    started = RolloutChange(RolloutStatus.RUNNING, 0, change.time, change.principal, change.reason)
    return state.with_rollout(
        RolloutRecord(
            event.model,
            event.alias,
            event.number,
            event.baseline,
            event.candidate,
            event.plan,
            step_since=change.time,
            changes=(started,),
        )
    )


@after.register(RolloutStepped)
def _(event: RolloutStepped, state: RegistryState, change: Change) -> RegistryState:
    rollout = state.rollout(event.model, event.alias)
    return _with_status(state, rollout, rollout.status, change, step=event.step)


@after.register(RolloutPaused)
def _(event: RolloutPaused, state: RegistryState, change: Change) -> RegistryState:
    return _with_status(state, state.rollout(event.model, event.alias), RolloutStatus.PAUSED, change)


@after.register(RolloutResumed)
def _(event: RolloutResumed, state: RegistryState, change: Change) -> RegistryState:
    return _with_status(state, state.rollout(event.model, event.alias), RolloutStatus.RUNNING, change)


@after.register(RolloutStopped)
def _(event: RolloutStopped, state: RegistryState, change: Change) -> RegistryState:
    status = RolloutStatus.ROLLED_BACK if event.is_rollback else RolloutStatus.ABORTED
    return _with_status(state, state.rollout(event.model, event.alias), status, change)


@after.register(PolicySet)
def _(event: PolicySet, state: RegistryState, _: Change) -> RegistryState:
    return replace(state, policies=state.policies.set(event.alias, event.policy))


@after.register(QuotaSet)
def _(event: QuotaSet, state: RegistryState, _: Change) -> RegistryState:
    return replace(state, quotas=state.quotas.set(event.namespace, event.quota))


@after.register(DatasetRegistered)
def _(event: DatasetRegistered, state: RegistryState, _: Change) -> RegistryState:
    others = (known for known in state.datasets.get(event.name, ()) if known != event)  # other paths, other lineage
    return replace(state, datasets=state.datasets.set(event.name, (*others, event)))  # the newest is last


@after.register(DeploymentRecorded)
def _(event: DeploymentRecorded, state: RegistryState, _: Change) -> RegistryState:
    return replace(state, deployments=state.deployments.set(event.application, event))


@after.register(DeploymentRemoved)
def _(event: DeploymentRemoved, state: RegistryState, _: Change) -> RegistryState:
    return replace(state, deployments=state.deployments.delete(event.application))


@after.register(PromotionApproved)
def _(event: PromotionApproved, state: RegistryState, change: Change) -> RegistryState:
    record = state.version(event.model, event.version)
    given = {*record.approvals.get(event.alias, ()), state.approval_by(change.principal)}
    return state.with_version(replace(record, approvals=record.approvals.set(event.alias, tuple(sorted(given)))))


@after.register(PrincipalAdded)
def _(event: PrincipalAdded, state: RegistryState, _: Change) -> RegistryState:
    before = state.principals.get(event.name)
    generation = before.generation + 1 if before is not None else 1
    added = Principal(event.name, event.token_digest, Map(event.grants), event.expires, generation=generation)
    return replace(state, principals=state.principals.set(event.name, added))


@after.register(PrincipalGranted)
def _(event: PrincipalGranted, state: RegistryState, _: Change) -> RegistryState:
    granted = replace(state.principals[event.name], grants=Map(event.grants))
    return replace(state, principals=state.principals.set(event.name, granted))


@after.register(PrincipalRevoked)
def _(event: PrincipalRevoked, state: RegistryState, _: Change) -> RegistryState:
    revoked = replace(state.principals[event.name], revoked=True)
    return replace(state, principals=state.principals.set(event.name, revoked))


@after.register(ContentCondemned)
def _(event: ContentCondemned, state: RegistryState, _: Change) -> RegistryState:
    condemned = {digest: number + 1 for digest, number in event.generations.items()}
    return replace(state, generations=state.generations.update(condemned))


@after.register(Refused)
def _(_event: Refused, state: RegistryState, _: Change) -> RegistryState:
    return state


@singledispatch
def _changed(event: object, record: VersionRecord, change: Change) -> VersionRecord:
    """A version's record after an event about it."""
    raise NotImplementedError(f"{type(event).__name__} of {record.ref} at {change.time}")


@_changed.register(MetricsRecorded)
def _(event: MetricsRecorded, record: VersionRecord, _: Change) -> VersionRecord:
    later = record.later_metrics.update(event.metrics)
    return replace(record, later_metrics=later, approvals=Map())  # what was approved is not known so well any more


@_changed.register(VersionTagged)
def _(event: VersionTagged, record: VersionRecord, _: Change) -> VersionRecord:
    return replace(record, tags=event.tags)


@_changed.register(VersionSigned)
def _(event: VersionSigned, record: VersionRecord, _: Change) -> VersionRecord:
    return replace(record, signatures=record.signatures.set(event.key, event))


@_changed.register(VersionDeprecated)
def _(event: VersionDeprecated, record: VersionRecord, _: Change) -> VersionRecord:
    return replace(record, deprecated=event.message)


@_changed.register(VersionRetired)
def _(event: VersionRetired, record: VersionRecord, change: Change) -> VersionRecord:
    return replace(record, retired=event.message, retired_at=change.time)


@_changed.register(VersionPurged)
def _(_event: VersionPurged, record: VersionRecord, _: Change) -> VersionRecord:
    return replace(record, purged=True)
