"""Validation of the log's history: each change is one that the service would have committed then, by its principal.

Anyone who can write to the home can add a commit that follows from the one before it. So each change is asked for
again, of the state before it: by the principal that it names, as the command that leads to it.
"""

from __future__ import annotations

from llamafarm_ray.errors import AccessDeniedError, LlamaFarmError
from llamafarm_ray.registry import commands, events
from llamafarm_ray.registry.commands import Command, ContentMovedError, Context, references
from llamafarm_ray.registry.events import Event
from llamafarm_ray.registry.identity import check_grants
from llamafarm_ray.registry.log import Change
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.types import Digest, ModelRef, Version

__all__ = ["problem_of"]


def problem_of(state: RegistryState, change: Change, format_version: int) -> str | None:
    """Return why the service would not have committed a change after a state; ``None`` where it would have.

    Args:
        format_version: the format of its commit: earlier formats had fewer rules.
    """
    for event in change.events:
        if isinstance(event, events.Refused):  # whoever asked, it changed nothing
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


def _command(event: Event, state: RegistryState) -> Command:  # noqa: PLR0911, PLR0912 - a case for each event
    """Return the command that leads to an event."""
    match event:
        case events.VersionRegistered():
            return commands.Register(event.model, event.kind, Digest(event.manifest), event.size_bytes, event.version)
        case events.MetricsRecorded():
            return commands.RecordMetrics(_ref(event), event.metrics)
        case events.VersionTagged():
            return commands.Tag(_ref(event), event.tags)
        case events.VersionSigned():
            return commands.Sign(_ref(event), event.signature, event.public_key, event.key)
        case events.VersionDeprecated():
            return commands.Deprecate(_ref(event), event.message)
        case events.VersionRetired():
            return commands.Retire(_ref(event), event.message)
        case events.VersionPurged():
            return commands.Purge(_ref(event))
        case events.AliasMoved():
            if event.is_rollback:
                return commands.Rollback(event.model, event.alias, event.version)
            return commands.MoveAlias(_ref(event), event.alias)
        case events.AliasRemoved():
            return commands.RemoveAlias(event.model, event.alias)
        case events.RolloutStarted():
            ref = ModelRef(event.model, version=Version.parse(event.candidate))
            return commands.StartRollout(ref, event.alias, event.plan)
        case events.RolloutStepped():
            return commands.StepRollout(event.model, event.alias, event.number, event.step)
        case events.RolloutPaused():
            return commands.PauseRollout(event.model, event.alias, event.number)
        case events.RolloutResumed():
            return commands.ResumeRollout(event.model, event.alias, event.number)
        case events.RolloutStopped():
            return commands.StopRollout(event.model, event.alias, event.number, event.is_rollback)
        case events.PolicySet():
            return commands.SetPolicy(event.alias, event.policy)
        case events.PromotionApproved():
            return commands.Approve(_ref(event), event.alias)
        case events.QuotaSet():
            return commands.SetQuota(event.namespace, event.quota)
        case events.DatasetRegistered():
            return commands.RegisterDataset(event)
        case events.DeploymentRecorded():
            return commands.RecordDeployment(event)
        case events.DeploymentRemoved():
            return commands.RemoveDeployment(state.deployments[event.application])
        case events.PrincipalAdded():
            return commands.AddPrincipal(event.name, event.token_digest, event.grants, event.expires)
        case events.PrincipalGranted():
            return commands.Grant(event.name, event.grants)
        case events.PrincipalRevoked():
            return commands.Revoke(event.name)
        case events.ContentCondemned():
            generations = {Digest(digest): number for digest, number in event.generations.items()}
            return commands.Condemn(generations, frozenset(references(state)))
        case events.Refused():
            raise NotImplementedError("No command leads to a refusal.")


def _ref(event: events.VersionEvent | events.AliasMoved) -> ModelRef:
    return ModelRef(event.model, version=Version.parse(event.version))
