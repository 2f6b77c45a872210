"""What can be asked of a registry, as values: each says which action it is, on what, and which events follow.

A command decides from a state, the time and who asks; it reads nothing else. The service checks that the principal may
do it, then commits the events.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from llamafarm_ray.errors import ConflictError, InputError, NotFoundError, PolicyError
from llamafarm_ray.registry.access import Action, Role, allows
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
    VersionDeprecated,
    VersionPurged,
    VersionRegistered,
    VersionRetired,
    VersionSigned,
    VersionTagged,
)
from llamafarm_ray.registry.policy import Policy, metric_value, violations
from llamafarm_ray.registry.state import AliasMove, RegistryState, VersionRecord
from llamafarm_ray.types import Digest, ModelKind, ModelRef, Version

__all__ = [
    "AddPrincipal",
    "Approve",
    "Bump",
    "Command",
    "Condemn",
    "ContentMovedError",
    "Context",
    "Deprecate",
    "Grant",
    "MoveAlias",
    "Purge",
    "RecordDeployment",
    "RecordMetrics",
    "Register",
    "RegisterDataset",
    "RemoveAlias",
    "RemoveDeployment",
    "Retire",
    "Revoke",
    "Rollback",
    "SetPolicy",
    "Sign",
    "Tag",
    "previous_version",
    "references",
]

Bump = Literal["major", "minor", "patch"]


class ContentMovedError(Exception):
    """What a command rests on was condemned or newly referred to meanwhile. Only the service sees this."""


@dataclass(frozen=True, slots=True)
class Context:
    """Who asks, and when."""

    principal: str
    now: dt.datetime


class Command(ABC):
    """Something asked of a registry."""

    action: ClassVar[Action]

    @property
    @abstractmethod
    def target(self) -> str:
        """What it is about: a reference, a name."""

    @property
    def namespace(self) -> str:
        """The namespace that it touches."""
        return self.target.partition("/")[0] if "/" in self.target else ""

    @property
    def namespaces(self) -> set[str]:
        """All that it touches: who asks must have the right in each."""
        return {self.namespace}

    @property
    def request(self) -> str:
        """A digest of what is asked: equal for a repeated command, whatever was stored meanwhile."""
        values = {key: value for key, value in vars(self).items() if key not in {"stored", "examined"}}
        text = json.dumps([type(self).__name__, values], sort_keys=True, default=repr)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]

    @abstractmethod
    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """The events that follow.

        Raises:
            UserError: it can't be done in this state.
        """


@dataclass(frozen=True)
class Register(Command):
    """Give a published manifest a version: the number ``version``, or the next one.

    Attributes:
        details: the other fields of :class:`VersionRegistered`.
        stored: the generation that each of its blobs and its manifest was published under.
    """

    action = Action.REGISTER
    model: str
    kind: ModelKind
    manifest: Digest
    size_bytes: int
    version: str | None = None
    bump: Bump = "minor"
    details: Mapping[str, Any] = field(default_factory=dict)
    stored: Mapping[Digest, int] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The model's name."""
        return self.model

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event, with the number chosen."""
        del context
        _check_stored(state, self.stored)
        return [
            _event(
                VersionRegistered,
                model=self.model,
                version=self.version or _next_version(state, self.model, self.bump),
                kind=self.kind,
                manifest=self.manifest,
                size_bytes=self.size_bytes,
                **self.details,
            )
        ]


@dataclass(frozen=True)
class _OfVersion(Command):
    """A command about one version."""

    ref: ModelRef

    @property
    def target(self) -> str:
        """The reference."""
        return str(self.ref)

    @property
    def namespace(self) -> str:
        """The model's."""
        return self.ref.namespace

    def _names(self, state: RegistryState) -> dict[str, str]:
        record = state.resolve(self.ref)
        return {"model": record.registered.model, "version": record.registered.version}


@dataclass(frozen=True)
class RecordMetrics(_OfVersion):
    """Add evaluation results to a version."""

    action = Action.RECORD_METRICS
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event.

        Raises:
            InputError: a dotted name would hide a result that is nested in a group.
        """
        del context
        known = {**state.resolve(self.ref).metrics, **self.metrics}
        for name in self.metrics:
            others = {key: value for key, value in known.items() if key != name}
            if "." in name and metric_value(others, name) is not None:
                raise InputError(
                    f"{name!r} would hide the result of that name in the group {name.partition('.')[0]!r}.",
                    hint="Give the whole group.",
                )
        return [_event(MetricsRecorded, **self._names(state), metrics=dict(self.metrics))]


@dataclass(frozen=True)
class Tag(_OfVersion):
    """Add and remove tags of a version."""

    action = Action.TAG
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event; none where nothing changes."""
        del context
        before = state.resolve(self.ref).tags
        missing = [tag for tag in self.remove if tag not in before]
        if missing:
            raise NotFoundError(f"{self.ref} has no tag {missing[0]!r}.")
        tags = tuple(dict.fromkeys(tag for tag in (*before, *self.add) if tag not in self.remove))
        return [_event(VersionTagged, **self._names(state), tags=tags)] if tags != before else []


@dataclass(frozen=True)
class Sign(_OfVersion):
    """Record a version's stored signature."""

    action = Action.SIGN
    signature: str = ""
    public_key: str = ""
    key: str = ""
    stored: Mapping[Digest, int] = field(default_factory=dict)

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        _check_stored(state, self.stored)
        return [
            _event(
                VersionSigned, **self._names(state), signature=self.signature, public_key=self.public_key, key=self.key
            )
        ]


@dataclass(frozen=True)
class Deprecate(_OfVersion):
    """Tell people to use another version."""

    action = Action.DEPRECATE
    message: str = ""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        return [_event(VersionDeprecated, **self._names(state), message=self.message)]


@dataclass(frozen=True)
class Retire(_OfVersion):
    """End a version's life. The reference must name its number."""

    action = Action.RETIRE
    message: str = ""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        if self.ref.version is None:
            raise InputError(f"{self.ref} does not say which version.", hint=f"Write it like {self.ref.name}:1.2.0.")
        return [_event(VersionRetired, **self._names(state), message=self.message)]


@dataclass(frozen=True)
class Approve(_OfVersion):
    """Agree that an alias may point at a version."""

    action = Action.APPROVE
    alias: str = ""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event; none where the principal approved before."""
        if context.principal in state.resolve(self.ref).approvals.get(self.alias, ()):
            return []
        return [_event(PromotionApproved, **self._names(state), alias=self.alias)]


@dataclass(frozen=True)
class MoveAlias(_OfVersion):
    """Point an alias at a version, if the alias's policy allows it. Promotion is this."""

    action = Action.MOVE_ALIAS
    alias: str = ""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event; none where it points there already.

        Raises:
            PolicyError: a rule of the alias is not fulfilled; which, and with which value.
        """
        record = state.resolve(self.ref)
        _check_policy(state, record, self.alias, context)
        moves = state.models[record.registered.model].aliases.get(self.alias)
        if moves and moves[-1].version == record.registered.version:
            return []
        return [_event(AliasMoved, **self._names(state), alias=self.alias)]


@dataclass(frozen=True)
class RemoveAlias(Command):
    """Have an alias point at nothing."""

    action = Action.MOVE_ALIAS
    model: str
    alias: str

    @property
    def target(self) -> str:
        """The alias."""
        return f"{self.model}@{self.alias}"

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        state.resolve(ModelRef(self.model, alias=self.alias))  # that there is such an alias
        return [_event(AliasRemoved, model=self.model, alias=self.alias)]


@dataclass(frozen=True)
class Rollback(Command):
    """Point an alias at what it pointed at before, or at a named version.

    What was there before is let through whatever the policy says now: it was good enough then, and there is a fire.
    Only a signature that the policy asks for it must have, since nothing would serve it without.
    """

    action = Action.MOVE_ALIAS
    model: str
    alias: str
    version: str | None = None

    @property
    def target(self) -> str:
        """The alias."""
        return f"{self.model}@{self.alias}"

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        state.resolve(ModelRef(self.model, alias=self.alias))  # that there is such an alias
        moves = state.models[self.model].aliases[self.alias]
        version = self.version or previous_version(state, self.model, self.alias)
        if version is None:
            raise ConflictError(
                f"There is nothing before {moves[-1].version} that {self.target} pointed at and that still lives.",
                hint="Name a version with --version.",
            )
        record = state.version(self.model, version)
        was_there = version in {move.version for move in moves}
        _check_policy(state, record, self.alias, context, only="signed_by" if was_there else None)
        if version == moves[-1].version:
            raise ConflictError(f"{self.target} points at {version} already.")
        return [_event(AliasMoved, model=self.model, alias=self.alias, version=version, is_rollback=True)]


def previous_version(state: RegistryState, model: str, alias: str) -> str | None:
    """What an alias pointed at before, leaving out what was rolled back from and what is retired."""
    stack: list[str] = []
    for move in state.models[model].aliases[alias]:
        stack = _after_move(stack, move)
    living = (number for number in reversed(stack[:-1]) if state.models[model].versions[number].retired is None)
    return next(living, None)


def _after_move(stack: list[str], move: AliasMove) -> list[str]:
    if move.is_rollback and move.version in stack:
        last = len(stack) - 1 - stack[::-1].index(move.version)
        return stack[: last + 1]
    return [*(number for number in stack if number != move.version), move.version]


def _check_policy(
    state: RegistryState, record: VersionRecord, alias: str, context: Context, *, only: str | None = None
) -> None:
    policy = state.policies.get(alias)
    if policy is None:
        return
    approvers = _approvers(state, record, alias, context)
    found = violations(policy, record, promoter=context.principal, approvers=approvers)
    found = [violation for violation in found if only in {None, violation.rule}]
    if found:
        raise PolicyError(
            f"{record.ref} may not become {alias!r}: {'; '.join(violation.message for violation in found)}.",
            rules=tuple(violation.rule for violation in found),
            hint="`llamafarm registry policy show` lists the rules.",
        )


@dataclass(frozen=True)
class RegisterDataset(Command):
    """Record a built dataset."""

    action = Action.REGISTER_DATASET
    dataset: DatasetRegistered

    @property
    def target(self) -> str:
        """The dataset's name."""
        return self.dataset.name

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del state, context
        return [self.dataset]


@dataclass(frozen=True)
class _OfDeployment(Command):
    action = Action.DEPLOY
    deployment: DeploymentRecorded

    @property
    def target(self) -> str:
        """The application's name."""
        return self.deployment.application

    @property
    def namespaces(self) -> set[str]:
        """Those of its adapters; without any that of the base."""
        names = self.deployment.adapters or (self.deployment.base_model,)
        return {name.partition("/")[0] if name.count("/") == 1 else "" for name in names}


@dataclass(frozen=True)
class RecordDeployment(_OfDeployment):
    """Record a running deployment."""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del state, context
        return [self.deployment]


@dataclass(frozen=True)
class RemoveDeployment(_OfDeployment):
    """Take a deployment off the record, if it is still the recorded one."""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event; none where another deployment took its place, or none is recorded."""
        del context
        if state.deployments.get(self.deployment.application) != self.deployment:
            return []
        return [DeploymentRemoved(application=self.deployment.application)]


@dataclass(frozen=True)
class SetPolicy(Command):
    """Replace the rules of an alias, for all models."""

    action = Action.SET_POLICY
    alias: str
    policy: Policy

    @property
    def target(self) -> str:
        """The alias."""
        return self.alias

    @property
    def namespace(self) -> str:
        """It touches all."""
        return "*"

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event; none where these are its rules."""
        del context
        if state.policies.get(self.alias, Policy()) == self.policy:
            return []
        return [_event(PolicySet, alias=self.alias, policy=self.policy)]


@dataclass(frozen=True)
class _OfPrincipal(Command):
    name: str

    @property
    def target(self) -> str:
        """The principal's name."""
        return self.name

    @property
    def namespace(self) -> str:
        """It touches all."""
        return "*"


@dataclass(frozen=True)
class AddPrincipal(_OfPrincipal):
    """Let the holder of a token do something. The first one switches access control on, and must be an admin."""

    action = Action.MANAGE_PRINCIPALS
    token_digest: str = ""
    grants: Mapping[str, Role] = field(default_factory=dict)
    expires: dt.datetime | None = None

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        if self.name == "unknown":
            raise InputError(
                "'unknown' is what the audit calls those without a good token.", hint="Choose another name."
            )
        if not state.principals and (self.grants.get("*") is not Role.ADMIN or self.expires is not None):
            raise InputError(
                "The first principal must be an admin everywhere and without an expiry, or nobody could add others.",
                hint="Say --role admin.",
            )
        if self.expires is not None and self.expires <= context.now:
            raise InputError(f"{self.expires:%Y-%m-%d %H:%M} is in the past.", hint="Give a later expiry.")
        return [
            _event(
                PrincipalAdded,
                name=self.name,
                token_digest=self.token_digest,
                grants=dict(self.grants),
                expires=self.expires,
            )
        ]


@dataclass(frozen=True)
class Grant(_OfPrincipal):
    """Replace a principal's roles."""

    action = Action.MANAGE_PRINCIPALS
    grants: Mapping[str, Role] = field(default_factory=dict)

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        if self.grants.get("*") is not Role.ADMIN:
            _check_admin_remains(state, self.name)
        return [_event(PrincipalGranted, name=self.name, grants=dict(self.grants))]


@dataclass(frozen=True)
class Revoke(_OfPrincipal):
    """Make a principal's token worthless."""

    action = Action.MANAGE_PRINCIPALS

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        _check_admin_remains(state, self.name)
        return [_event(PrincipalRevoked, name=self.name)]


def _check_admin_remains(state: RegistryState, leaving: str) -> None:
    admins = {
        principal.name
        for principal in state.principals.values()
        if principal.grants.get("*") is Role.ADMIN and not principal.revoked and principal.expires is None
    }
    if admins == {leaving}:
        raise ConflictError(f"{leaving!r} is the last admin.", hint="Add another one first.")


@dataclass(frozen=True)
class Purge(_OfVersion):
    """Give up a retired version's content."""

    action = Action.COLLECT_GARBAGE

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        return [_event(VersionPurged, **self._names(state))]


@dataclass(frozen=True)
class Condemn(Command):
    """Have stored bytes deleted.

    Attributes:
        generations: what to delete, by digest.
        examined: every manifest and signature whose references the collector looked at.
    """

    action = Action.COLLECT_GARBAGE
    generations: Mapping[Digest, int]
    examined: frozenset[str]

    @property
    def target(self) -> str:
        """How much."""
        return f"{len(self.generations)} blobs"

    @property
    def namespace(self) -> str:
        """It touches all."""
        return "*"

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        if not references(state) <= self.examined:
            raise ContentMovedError
        _check_stored(state, self.generations)
        return [_event(ContentCondemned, generations=dict(self.generations))] if self.generations else []


def references(state: RegistryState) -> set[str]:
    """The digests that a state refers to: manifests of versions with content, their signatures, deployed bases."""
    found = {deployment.base_digest for deployment in state.deployments.values()}
    for record in state.versions():
        if not record.purged:
            found.add(record.registered.manifest)
            found.update(signed.signature for signed in record.signatures.values())
    return found


def _approvers(state: RegistryState, record: VersionRecord, alias: str, context: Context) -> list[str]:
    """Who approved and may still do so."""
    approvers = record.approvals.get(alias, ())
    if not state.principals:
        return list(approvers)
    namespace = ModelRef(record.registered.model).namespace
    living = (state.principals[name] for name in approvers if name in state.principals)
    return [
        principal.name
        for principal in living
        if principal.is_valid(context.now) and allows(principal.grants, Action.APPROVE, namespace)
    ]


def _next_version(state: RegistryState, name: str, bump: Bump) -> str:
    model = state.models.get(name)
    if model is None:
        return "1.0.0"
    highest = Version.parse(model.highest_ever)
    if highest.prerelease:
        return str(Version(highest.major, highest.minor, highest.patch))
    return str(highest.bump(bump))


def _check_stored(state: RegistryState, stored: Mapping[Digest, int]) -> None:
    """That these are still the generations that the digests' bytes are stored under."""
    if any(state.generations.get(digest, 0) != number for digest, number in stored.items()):
        raise ContentMovedError


def _event(event: Any, /, **values: Any) -> Any:
    """An event of the values a caller gave; what they got wrong is their mistake, not a fault."""
    try:
        return event(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{place} is unusable: {first['msg']} (it is {first['input']!r:.120}).") from None
