"""The audit trail of a registry: each change with its author, time and reason, and each refusal."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llamafarm_ray.registry import Event, RegistryApi
from llamafarm_ray.registry.events import (
    AliasMoved,
    DatasetRegistered,
    MetricsRecorded,
    PolicySet,
    PrincipalAdded,
    QuotaSet,
    Refused,
    RolloutPaused,
    RolloutResumed,
    RolloutStarted,
    RolloutStepped,
    RolloutStopped,
    VersionRegistered,
)
from llamafarm_ray.registry.governance.access import EVERY_NAMESPACE, Action, Role
from llamafarm_ray.registry.governance.policy import Policy
from llamafarm_ray.registry.usage import Quota
from llamafarm_ray.workflows.versions.metrics import flat_metrics, short_name

__all__ = ["AuditEntry", "audit", "entries", "policy_rules", "quota_limits", "roles", "to_csv"]

_COLUMNS = ("time", "sequence", "principal", "action", "target", "reason", "details")
_RolloutEvent = RolloutStarted | RolloutStepped | RolloutPaused | RolloutResumed | RolloutStopped
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_OF_MODELS = {
    Action.READ,
    Action.REGISTER,
    Action.RECORD_METRICS,
    Action.TAG,
    Action.SIGN,
    Action.DEPRECATE,
    Action.RETIRE,
    Action.APPROVE,
    Action.MOVE_ALIAS,
    Action.ROLL_OUT,
    Action.COLLECT_GARBAGE,
}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that happened, or was asked for and refused.

    Attributes:
        time: time of the action (UTC).
        sequence: the commit that holds it.
        action: the action, in a word or two.
        target: to what: ``name:version``, an alias, a principal.
        details: the values, in words.
        model: the model it is about; empty where it is about none.
        alias: the alias it is about; empty where it is about none.
        refused: True if it was refused.
    """

    time: dt.datetime
    sequence: int
    principal: str
    action: str
    target: str
    reason: str
    details: str
    event: Event
    model: str = ""
    alias: str = ""
    refused: bool = False

    def to_dict(self) -> dict[str, object]:
        """The same for programs."""
        shown: dict[str, object] = {column: getattr(self, column) for column in _COLUMNS}
        event = self.event.model_dump(mode="json", exclude={"token_digest"})
        return {**shown, "time": self.time.isoformat(), "refused": self.refused, "event": event}


def audit(
    registry: RegistryApi,
    *,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    principal: str | None = None,
    model: str | None = None,
    refused: bool = False,
) -> list[AuditEntry]:
    """Return the audit, oldest first.

    Args:
        registry: the registry to read.
        since: from when on.
        until: up to when.
        principal: only what they did.
        model: only what is about it.
        refused: only what was refused.

    Raises:
        AccessDeniedError: the principal is not an admin of every namespace.
        IntegrityError: a commit is damaged.
    """
    registry.refresh()
    registry.allow(Action.MANAGE_PRINCIPALS, EVERY_NAMESPACE, target="audit")
    return [
        entry
        for entry in entries(registry)
        if (since is None or entry.time >= since)
        and (until is None or entry.time <= until)
        and principal in {None, entry.principal}
        and model in {None, entry.model}
        and (entry.refused or not refused)
    ]


def entries(registry: RegistryApi) -> Iterator[AuditEntry]:
    """Everything that happened, oldest first."""
    teller = _Teller()
    for commit in registry.commits():
        for change in commit.changes:
            for event in change.events:
                told = teller.tell(event)
                yield AuditEntry(
                    change.time,
                    commit.sequence,
                    change.principal,
                    told.action,
                    told.target,
                    change.reason,
                    told.details,
                    event,
                    model=told.model,
                    alias=told.alias,
                    refused=event.type == "refused",
                )


def to_csv(found: Iterable[AuditEntry]) -> str:
    """Return a spreadsheet. No cell is a formula, even if a reason looks like one (CWE-1236)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for entry in found:
        values = entry.to_dict()
        writer.writerow([_inert(str(values[column])) for column in _COLUMNS])
    return text.getvalue()


def policy_rules(policy: Policy) -> dict[str, str]:
    """The rules of a policy by name, those that ask for something."""
    rules = {f"metric {name}": str(goal) for name, goal in policy.metrics.items()}
    if policy.licenses:
        rules["licence"] = " or ".join(policy.licenses)
    if policy.signed_by:
        rules["signed by"] = " or ".join(key[7:19] for key in policy.signed_by)
    if policy.approvals:
        rules["approvals"] = str(policy.approvals)
    return rules


def quota_limits(quota: Quota) -> dict[str, str]:
    """The limits of a quota by name, those that there are."""
    limits = {}
    if quota.device_hours is not None:
        limits["device hours a month"] = f"{quota.device_hours:,g}"
    if quota.tokens_per_day is not None:
        limits["tokens a day"] = f"{quota.tokens_per_day:,}"
    if quota.storage_bytes is not None:
        limits["storage bytes"] = f"{quota.storage_bytes:,}"
    return limits


def roles(grants: Mapping[str, Role]) -> str:
    """The roles of a principal, for people."""
    return ", ".join(f"{role} in {_NAMESPACES.get(name, name)}" for name, role in sorted(grants.items()))


_NAMESPACES = {EVERY_NAMESPACE: "every namespace", "": "models without a namespace"}
_MAX_METRICS = 6


def _inert(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


@dataclass(frozen=True, slots=True)
class _Told:
    action: str
    target: str
    details: str = ""
    model: str = ""
    alias: str = ""


@dataclass
class _Teller:
    """Describes each event. It must get the events in order, to know an alias's earlier target."""

    pointed: dict[tuple[str, str], str] = field(default_factory=dict)

    def tell(self, event: Event) -> _Told:
        """Return an event in words."""
        if event.type == "alias_moved":
            return self._moved(event)
        if event.type in _ABOUT_VERSIONS:
            action, details = _ABOUT_VERSIONS[event.type]
            alias = getattr(event, "alias", "")
            return _Told(
                action, f"{_get(event, 'model')}:{_get(event, 'version')}", details(event), _get(event, "model"), alias
            )
        return _OTHERS[event.type](event)

    def _moved(self, event: AliasMoved) -> _Told:
        before = self.pointed.get((event.model, event.alias))
        self.pointed[event.model, event.alias] = event.version
        steps = f"{event.alias}: {before} -> {event.version}" if before else f"{event.alias}: {event.version}"
        action = "rolled back" if event.is_rollback else "promoted"
        return _Told(action, f"{event.model}:{event.version}", steps, event.model, event.alias)


def _get(event: Event, name: str) -> str:
    return str(getattr(event, name))


def _registered(event: VersionRegistered) -> str:
    said = (event.kind, event.method, event.base_model and f"on {event.base_model}", event.manifest[7:19])
    return " ".join(part for part in said if part)


def _metrics(event: MetricsRecorded) -> str:
    flat = [f"{short_name(name)} {value:g}" for name, value in flat_metrics(event.metrics).items()]
    more = f" and {len(flat) - _MAX_METRICS} more" if len(flat) > _MAX_METRICS else ""
    return ", ".join(flat[:_MAX_METRICS]) + more


_ABOUT_VERSIONS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "version_registered": ("registered", _registered),
    "metrics_recorded": ("metrics recorded", _metrics),
    "version_tagged": ("tagged", lambda event: ", ".join(event.tags) or "no tags"),
    "version_signed": ("signed", lambda event: f"key {event.key[7:19]}"),
    "version_deprecated": ("deprecated", lambda event: event.message),
    "version_retired": ("retired", lambda event: event.message),
    "version_purged": ("purged", lambda _: "its content is no longer kept"),
    "promotion_approved": ("approved", lambda event: f"for {event.alias}"),
}


def _refused(event: Refused) -> _Told:
    is_of_model = event.action in _OF_MODELS
    name, _, alias = event.target.partition("@")
    return _Told(
        f"refused: {event.action}",
        event.target,
        f"{event.message} [{event.rule}]",
        model=name.partition(":")[0] if is_of_model else "",
        alias=event.alias or (alias if is_of_model else ""),
    )


def _policy_set(event: PolicySet) -> _Told:
    rules = "; ".join(f"{name} {value}" for name, value in policy_rules(event.policy).items())
    return _Told("policy set", event.alias, rules or "no rules")


def _quota_set(event: QuotaSet) -> _Told:
    limits = "; ".join(f"{name} {value}" for name, value in quota_limits(event.quota).items())
    return _Told("quota set", _NAMESPACES.get(event.namespace, event.namespace), limits or "no limits")


def _rollout_started(event: RolloutStarted) -> _Told:
    details = f"{event.baseline} -> {event.candidate}, {event.plan.kind.replace('_', '-')}"
    return _of_rollout("rollout started", event, details)


def _of_rollout(action: str, event: _RolloutEvent, details: str = "") -> _Told:
    return _Told(
        action,
        f"{event.model}@{event.alias}",
        f"rollout {event.number}" + (f": {details}" if details else ""),
        event.model,
        event.alias,
    )


def _dataset(event: DatasetRegistered) -> _Told:
    counts = f"{event.num_train} to train, {event.num_validation} held out, of {len(event.documents)} documents"
    return _Told("dataset registered", event.name, counts)


def _added(event: PrincipalAdded) -> _Told:
    until = f", until {event.expires:%Y-%m-%d %H:%M} UTC" if event.expires else ""
    return _Told("principal added", event.name, roles(event.grants) + until)


_OTHERS: dict[str, Callable[[Any], _Told]] = {
    "refused": _refused,
    "policy_set": _policy_set,
    "quota_set": _quota_set,
    "dataset_registered": _dataset,
    "principal_added": _added,
    "principal_granted": lambda event: _Told("roles changed", event.name, roles(event.grants)),
    "principal_revoked": lambda event: _Told("principal revoked", event.name),
    "deployment_recorded": lambda event: _Told("deployed", event.application, f"{event.base_model} at {event.url}"),
    "alias_removed": lambda event: _Told(
        "alias removed", f"{event.model}@{event.alias}", model=event.model, alias=event.alias
    ),
    "rollout_started": _rollout_started,
    "rollout_stepped": lambda event: _of_rollout("rollout stepped", event, f"step {event.step + 1}"),
    "rollout_paused": lambda event: _of_rollout("rollout paused", event),
    "rollout_resumed": lambda event: _of_rollout("rollout resumed", event),
    "rollout_stopped": lambda event: _of_rollout(f"rollout {'rolled back' if event.is_rollback else 'aborted'}", event),
    "deployment_removed": lambda event: _Told("undeployed", event.application),
    "content_condemned": lambda event: _Told("garbage collected", f"{len(event.generations)} blobs"),
}
