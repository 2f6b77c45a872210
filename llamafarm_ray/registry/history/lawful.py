"""Validation of the log's history: each change is one that the service would have committed then, by its principal.

Anyone who can write to the home can add a commit that follows from the one before it. So each change is asked for
again, of the state before it: by the principal that it names, as the command that leads to it.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from llamafarm_ray.errors import AccessDeniedError, LlamaFarmError
from llamafarm_ray.registry.commands import (
    AddPrincipal,
    Approve,
    Command,
    Condemn,
    ContentMovedError,
    Context,
    Deprecate,
    Grant,
    MoveAlias,
    PauseRollout,
    Purge,
    RecordDeployment,
    RecordMetrics,
    Register,
    RegisterDataset,
    RemoveAlias,
    RemoveDeployment,
    ResumeRollout,
    Retire,
    Revoke,
    Rollback,
    SetPolicy,
    SetQuota,
    Sign,
    StartRollout,
    StepRollout,
    StopRollout,
    Tag,
    references,
)
from llamafarm_ray.registry.events import (
    AliasMoved,
    AliasRemoved,
    ContentCondemned,
    DatasetRegistered,
    DeploymentRecorded,
    DeploymentRemoved,
    Event,
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
from llamafarm_ray.registry.identity import check_grants
from llamafarm_ray.registry.log import Change
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.types import Digest, ModelRef, Version

__all__ = ["problem_of"]


def problem_of(state: RegistryState, change: Change, format_version: int) -> str | None:
    """Return why the service would not have committed a change after a state; ``None`` where it would have.

    Args:
        state: the state before the change.
        change: the change.
        format_version: the format of its commit: earlier formats had fewer rules.
    """
    for event in change.events:
        if isinstance(event, Refused):  # whoever asked, it changed nothing
            continue
        try:
            _check(state, change, event, format_version)
        except LlamaFarmError as error:
            return error.message
        except ContentMovedError:
            return "it gives up bytes of another generation than those that were stored."
    return None


def _check(state: RegistryState, change: Change, event: Event, format_version: int) -> None:
    state.check(event)
    command = _command(event, state)
    if state.principals:
        _authorize(state, change, command)
    command.decide(state, Context(change.principal, change.time, format_version))


def _authorize(state: RegistryState, change: Change, command: Command) -> None:
    principal = state.principals.get(change.principal)
    if principal is None:
        raise AccessDeniedError(f"there was no principal {change.principal[:120]!r}.")
    if principal.revoked:
        raise AccessDeniedError(f"{principal.name!r} was revoked before.")
    # A writer whose clock was behind took the time of the commit before, which says nothing of a token's end.
    if principal.expires is not None and principal.expires <= change.time and change.time > state.time:
        raise AccessDeniedError(f"the token of {principal.name!r} had expired.")
    check_grants(principal, command.action, command.namespaces)


@singledispatch
def _command(event: object, state: RegistryState) -> Command:
    """The command that leads to an event."""
    raise NotImplementedError(f"{type(event).__name__} after commit {state.sequence}")


def _ref(event: Any) -> ModelRef:
    return ModelRef(event.model, version=Version.parse(event.version))


@_command.register
def _(event: VersionRegistered, _: RegistryState) -> Command:
    return Register(event.model, event.kind, Digest(event.manifest), event.size_bytes, event.version)


@_command.register
def _(event: MetricsRecorded, _: RegistryState) -> Command:
    return RecordMetrics(_ref(event), event.metrics)


@_command.register
def _(event: VersionTagged, _: RegistryState) -> Command:
    return Tag(_ref(event), event.tags)


@_command.register
def _(event: VersionSigned, _: RegistryState) -> Command:
    return Sign(_ref(event), event.signature, event.public_key, event.key)


@_command.register
def _(event: VersionDeprecated, _: RegistryState) -> Command:
    return Deprecate(_ref(event), event.message)


@_command.register
def _(event: VersionRetired, _: RegistryState) -> Command:
    return Retire(_ref(event), event.message)


@_command.register
def _(event: VersionPurged, _: RegistryState) -> Command:
    return Purge(_ref(event))


@_command.register
def _(event: AliasMoved, _: RegistryState) -> Command:
    if event.is_rollback:
        return Rollback(event.model, event.alias, event.version)
    return MoveAlias(_ref(event), event.alias)


@_command.register
def _(event: AliasRemoved, _: RegistryState) -> Command:
    return RemoveAlias(event.model, event.alias)


@_command.register
def _(event: RolloutStarted, _: RegistryState) -> Command:
    ref = ModelRef(event.model, version=Version.parse(event.candidate))
    return StartRollout(ref, event.alias, event.plan)


@_command.register
def _(event: RolloutStepped, _: RegistryState) -> Command:
    return StepRollout(event.model, event.alias, event.number, event.step)


@_command.register
def _(event: RolloutPaused, _: RegistryState) -> Command:
    return PauseRollout(event.model, event.alias, event.number)


@_command.register
def _(event: RolloutResumed, _: RegistryState) -> Command:
    return ResumeRollout(event.model, event.alias, event.number)


@_command.register
def _(event: RolloutStopped, _: RegistryState) -> Command:
    return StopRollout(event.model, event.alias, event.number, event.is_rollback)


@_command.register
def _(event: PolicySet, _: RegistryState) -> Command:
    return SetPolicy(event.alias, event.policy)


@_command.register
def _(event: PromotionApproved, _: RegistryState) -> Command:
    return Approve(_ref(event), event.alias)


@_command.register
def _(event: QuotaSet, _: RegistryState) -> Command:
    return SetQuota(event.namespace, event.quota)


@_command.register
def _(event: DatasetRegistered, _: RegistryState) -> Command:
    return RegisterDataset(event)


@_command.register
def _(event: DeploymentRecorded, _: RegistryState) -> Command:
    return RecordDeployment(event)


@_command.register
def _(event: DeploymentRemoved, state: RegistryState) -> Command:
    return RemoveDeployment(state.deployments[event.application])


@_command.register
def _(event: PrincipalAdded, _: RegistryState) -> Command:
    return AddPrincipal(event.name, event.token_digest, event.grants, event.expires)


@_command.register
def _(event: PrincipalGranted, _: RegistryState) -> Command:
    return Grant(event.name, event.grants)


@_command.register
def _(event: PrincipalRevoked, _: RegistryState) -> Command:
    return Revoke(event.name)


@_command.register
def _(event: ContentCondemned, state: RegistryState) -> Command:
    generations = {Digest(digest): number for digest, number in event.generations.items()}
    return Condemn(generations, frozenset(references(state)))
