"""The registry's state: a pure function of the log. No input, no output, no clock.

A state never changes: taking a commit in gives a new one that shares what stayed the same (hash array mapped tries,
https://github.com/MagicStack/immutables). Readers need no lock, a lost race costs nothing to undo, and the state of
last Tuesday is a value like any other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Annotated, Any, TypeVar, get_args

from immutables import Map
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from llamafarm_ray.errors import ConflictError, NotFoundError, did_you_mean
from llamafarm_ray.registry.access import Role
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
    Refused,
    VersionDeprecated,
    VersionPurged,
    VersionRegistered,
    VersionRetired,
    VersionSigned,
    VersionTagged,
)
from llamafarm_ray.registry.log import Change, Commit
from llamafarm_ray.registry.policy import Policy
from llamafarm_ray.types import ModelRef, Version

_BEGINNING = dt.datetime.fromtimestamp(0, dt.UTC)

__all__ = ["AliasMove", "ModelRecord", "Principal", "RegistryState", "VersionRecord"]

T = TypeVar("T")


class _TrieSchema:
    """Lets pydantic write a map of a state as a JSON object, and read it back."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = handler.generate_schema(dict[get_args(source)])  # type: ignore[misc]
        return core_schema.no_info_after_validator_function(
            Map, plain, serialization=core_schema.plain_serializer_function_ser_schema(dict, return_schema=plain)
        )


Trie = Annotated[Map[str, T], _TrieSchema()]

DEFAULT_ALIAS = "production"
"""What a bare model name means, where that alias is set."""


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A registered version and everything that happened to it.

    Attributes:
        registered: what was said at registration.
        time: when that was.
        principal: by whom.
        tags: its tags now.
        later_metrics: results recorded after registration; they win over those of ``registered``.
        approvals: who approved it, by alias.
        signatures: by digest of the public key.
        deprecated: why others should not use it any more; ``None`` while they should.
        retired: why it ended; ``None`` while it lives.
        retired_at: when it ended.
        purged: whether its content is gone.
    """

    registered: VersionRegistered
    time: dt.datetime
    principal: str
    tags: tuple[str, ...] = ()
    later_metrics: Trie[Any] = field(default_factory=Map)
    approvals: Trie[tuple[str, ...]] = field(default_factory=Map)
    signatures: Trie[VersionSigned] = field(default_factory=Map)
    deprecated: str | None = None
    retired: str | None = None
    retired_at: dt.datetime | None = None
    purged: bool = False

    @property
    def ref(self) -> str:
        """``name:version``."""
        return f"{self.registered.model}:{self.registered.version}"

    @property
    def version(self) -> Version:
        """Its number, comparable."""
        return Version.parse(self.registered.version)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """All evaluation results."""
        return {**self.registered.metrics, **self.later_metrics}

    @property
    def license(self) -> str:
        """SPDX id; empty where none was given."""
        return self.registered.license

    @property
    def signers(self) -> tuple[str, ...]:
        """Digests of the public keys that signed it."""
        return tuple(self.signatures)

    @property
    def status(self) -> str:
        """``active``, ``deprecated``, ``retired`` or ``purged``."""
        if self.purged:
            return "purged"
        if self.retired is not None:
            return "retired"
        return "deprecated" if self.deprecated is not None else "active"


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One step of an alias's history."""

    version: str
    time: dt.datetime
    principal: str
    reason: str
    is_rollback: bool = False


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model: its versions by number, and each alias's moves, oldest first."""

    name: str
    highest: str
    """The highest version that lives; a pre-release, then a retired one, only where there is nothing else."""
    highest_ever: str
    """The highest number that was ever used; a pre-release only where there is nothing else."""
    versions: Trie[VersionRecord] = field(default_factory=Map)
    aliases: Trie[tuple[AliasMove, ...]] = field(default_factory=Map)

    @property
    def latest(self) -> VersionRecord:
        """The version ``highest``."""
        return self.versions[self.highest]

    def pointing_at(self, version: str) -> list[str]:
        """The aliases that point at a version, sorted."""
        return sorted(alias for alias, moves in self.aliases.items() if moves[-1].version == version)

    def with_version(self, record: VersionRecord) -> ModelRecord:
        """This model with a version added or changed."""
        number = record.registered.version
        versions = self.versions.set(number, record)
        highest = self.highest
        if highest == number:  # it may have lost its place
            highest = max(versions.values(), key=_height).registered.version
        elif _height(record) > _height(self.latest):
            highest = number
        ever = max(self.highest_ever, number, key=_precedence)
        return replace(self, versions=versions, highest=highest, highest_ever=ever)


def _height(record: VersionRecord) -> tuple[bool, bool, Version]:
    return (record.retired is None, *_precedence(record.registered.version))


def _precedence(number: str) -> tuple[bool, Version]:
    version = Version.parse(number)
    return (not version.prerelease, version)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody with a token. Expired and revoked ones stay on record."""

    name: str
    token_digest: str
    grants: Trie[Role]
    expires: dt.datetime | None
    revoked: bool = False

    def is_valid(self, now: dt.datetime) -> bool:
        """Whether the token is worth something at a time."""
        return not self.revoked and (self.expires is None or self.expires > now)


@dataclass(frozen=True, slots=True)
class RegistryState:
    """Everything the log says up to commit ``sequence``. :meth:`check` guards an event, :meth:`after` takes it in."""

    sequence: int = 0
    time: dt.datetime = _BEGINNING
    models: Trie[ModelRecord] = field(default_factory=Map)
    datasets: Trie[tuple[DatasetRegistered, ...]] = field(default_factory=Map)
    deployments: Trie[DeploymentRecorded] = field(default_factory=Map)
    policies: Trie[Policy] = field(default_factory=Map)
    principals: Trie[Principal] = field(default_factory=Map)
    generations: Trie[int] = field(default_factory=Map)
    """The generation that a digest's bytes are stored under, where it isn't 0."""
    commits_by_key: Trie[int] = field(default_factory=Map)

    def after(self, commit: Commit) -> RegistryState:
        """The state with a commit taken in. The log only holds what passed :meth:`check`: nothing can fail here."""
        state = self
        for change in commit.changes:
            state = state.after_change(change, commit.sequence)
        return replace(state, sequence=commit.sequence, time=commit.time)

    def after_change(self, change: Change, sequence: int) -> RegistryState:
        """The state with one change of the commit ``sequence`` taken in."""
        state = self
        for event in change.events:
            state = _after(event, state, change)
        return replace(state, commits_by_key=state.commits_by_key.set(change.idempotency_key, sequence))

    def check(self, event: Event) -> None:
        """Whether an event may follow this state.

        Raises:
            ConflictError: the version number was used already, a retired version would be used, ...
            NotFoundError: the event is about a version, deployment or principal that there isn't.
        """
        _check(event, self)

    def resolve(self, ref: ModelRef) -> VersionRecord:
        """The version a reference names; a bare name means ``@production`` if that alias is set, else the latest.

        Raises:
            NotFoundError: there is no such model, version or alias; near names are in the hint.
        """
        model = self._model(ref.name)
        if ref.version is not None:
            return self.version(ref.name, str(ref.version))
        if ref.alias is not None and ref.alias not in model.aliases:
            raise NotFoundError(f"{ref.name} has no alias {ref.alias!r}.", hint=did_you_mean(ref.alias, model.aliases))
        moves = model.aliases.get(ref.alias or DEFAULT_ALIAS)
        return model.versions[moves[-1].version] if moves else model.latest

    def version(self, name: str, number: str) -> VersionRecord:
        """The version of that number.

        Raises:
            NotFoundError: there is no such model or version.
        """
        model = self._model(name)
        if number not in model.versions:
            raise NotFoundError(f"{name} has no version {number}.", hint=did_you_mean(number, model.versions))
        return model.versions[number]

    def versions(self) -> Iterator[VersionRecord]:
        """All versions of all models, in no order."""
        for model in self.models.values():
            yield from model.versions.values()

    def with_content(self, manifest: str) -> Iterator[VersionRecord]:
        """The versions that have these files."""
        return (record for record in self.versions() if record.registered.manifest == manifest)

    def dataset_named(self, name: str) -> DatasetRegistered:
        """The newest dataset of a name.

        Raises:
            NotFoundError: there is none.
        """
        return _find(self.datasets, name, "dataset")[-1]

    def _model(self, name: str) -> ModelRecord:
        if name in self.models:
            return self.models[name]
        namespace = ModelRef(name).namespace  # once tokens count, names of other namespaces are not given away
        near = [known for known in self.models if not self.principals or ModelRef(known).namespace == namespace]
        raise NotFoundError(f"There is no model {name!r}.", hint=did_you_mean(name, near))

    def with_version(self, record: VersionRecord) -> RegistryState:
        """This state with a version added or changed."""
        name = record.registered.model
        number = record.registered.version
        model = self.models.get(name)
        changed = model.with_version(record) if model else ModelRecord(name, number, number, Map({number: record}))
        return replace(self, models=self.models.set(name, changed))


@singledispatch
def _check(event: Any, state: RegistryState) -> None:
    """Whether an event may follow a state. What is about one version needs that version to be there."""
    if hasattr(event, "version"):
        state.version(event.model, event.version)


@_check.register
def _(event: VersionRegistered, state: RegistryState) -> None:
    model = state.models.get(event.model)
    if model is not None and event.version in model.versions:
        raise ConflictError(
            f"{event.model}:{event.version} is registered already, and a version never changes.",
            hint=f"The highest is {model.latest.registered.version}: register a higher one.",
        )


@_check.register
def _(event: AliasMoved, state: RegistryState) -> None:
    record = state.version(event.model, event.version)
    if record.retired is not None:
        raise ConflictError(f"{record.ref} is retired, so {event.alias!r} can't point at it.")


@_check.register
def _(event: AliasRemoved, state: RegistryState) -> None:
    state.resolve(ModelRef(event.model, alias=event.alias))


@_check.register
def _(event: VersionRetired, state: RegistryState) -> None:
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
    _check_not_deployed(record, state)
    if any(
        other.retired is None and other.ref != record.ref for other in state.with_content(record.registered.manifest)
    ):
        return
    for model in state.models.values():
        for moves in model.aliases.values():
            resting = model.versions[moves[-1].version]
            if resting.registered.base_digest == record.registered.manifest:
                raise ConflictError(
                    f"{record.ref} can't end: {resting.ref}, which an alias points at, is based on it.",
                    hint="Move that alias first.",
                )


@_check.register
def _(event: VersionPurged, state: RegistryState) -> None:
    record = state.version(event.model, event.version)
    if record.retired is None:
        raise ConflictError(f"{record.ref} is not retired.", hint="Retire it first.")
    _check_not_deployed(record, state)


@_check.register
def _(event: DeploymentRecorded, state: RegistryState) -> None:
    served = [state.resolve(ModelRef.parse(reference)) for reference in event.adapters]
    bases = list(state.with_content(event.base_digest))
    ended = [record for record in served if record.retired is not None]
    if bases and all(record.retired is not None for record in bases):
        ended += bases[:1]
    if ended:
        raise ConflictError(f"{ended[0].ref} is retired, so it can't be deployed.", hint="Deploy another version.")


@_check.register
def _(event: DeploymentRemoved, state: RegistryState) -> None:
    _find(state.deployments, event.application, "deployment")


@_check.register
def _(event: PrincipalAdded, state: RegistryState) -> None:
    if event.name in state.principals and not state.principals[event.name].revoked:
        raise ConflictError(f"There is a principal {event.name!r} already.", hint="Revoke it first.")


@_check.register
def _(event: PrincipalGranted, state: RegistryState) -> None:
    _find(state.principals, event.name, "principal")


@_check.register
def _(event: PrincipalRevoked, state: RegistryState) -> None:
    _find(state.principals, event.name, "principal")


def _check_not_deployed(record: VersionRecord, state: RegistryState) -> None:
    for deployment in state.deployments.values():
        if record.registered.manifest == deployment.base_digest or record.ref in deployment.adapters:
            raise ConflictError(
                f"{record.ref} can't end: the deployment at {deployment.url} serves it.",
                hint="Deploy without it, or stop that deployment.",
            )


@singledispatch
def _after(event: Any, state: RegistryState, change: Change) -> RegistryState:
    """The state after an event; for those about one version see :func:`_changed`."""
    record = state.models[event.model].versions[event.version]
    return state.with_version(_changed(event, record, change))


@_after.register
def _(event: VersionRegistered, state: RegistryState, change: Change) -> RegistryState:
    return state.with_version(VersionRecord(event, change.time, change.principal, tags=event.tags))


@_after.register
def _(event: AliasMoved, state: RegistryState, change: Change) -> RegistryState:
    model = state.models[event.model]
    move = AliasMove(event.version, change.time, change.principal, change.reason, event.is_rollback)
    moves = (*model.aliases.get(event.alias, ()), move)
    return replace(
        state, models=state.models.set(model.name, replace(model, aliases=model.aliases.set(event.alias, moves)))
    )


@_after.register
def _(event: AliasRemoved, state: RegistryState, _: Change) -> RegistryState:
    model = state.models[event.model]
    changed = replace(model, aliases=model.aliases.delete(event.alias))
    return replace(state, models=state.models.set(model.name, changed))


@_after.register
def _(event: PolicySet, state: RegistryState, _: Change) -> RegistryState:
    return replace(state, policies=state.policies.set(event.alias, event.policy))


@_after.register
def _(event: DatasetRegistered, state: RegistryState, _: Change) -> RegistryState:
    others = (known for known in state.datasets.get(event.name, ()) if known.digest != event.digest)
    return replace(state, datasets=state.datasets.set(event.name, (*others, event)))  # the newest is last


@_after.register
def _(event: DeploymentRecorded, state: RegistryState, _: Change) -> RegistryState:
    return replace(state, deployments=state.deployments.set(event.application, event))


@_after.register
def _(event: DeploymentRemoved, state: RegistryState, _: Change) -> RegistryState:
    return replace(state, deployments=state.deployments.delete(event.application))


@_after.register
def _(event: PrincipalAdded, state: RegistryState, _: Change) -> RegistryState:
    added = Principal(event.name, event.token_digest, Map(event.grants), event.expires)
    return replace(state, principals=state.principals.set(event.name, added))


@_after.register
def _(event: PrincipalGranted, state: RegistryState, _: Change) -> RegistryState:
    granted = replace(state.principals[event.name], grants=Map(event.grants))
    return replace(state, principals=state.principals.set(event.name, granted))


@_after.register
def _(event: PrincipalRevoked, state: RegistryState, _: Change) -> RegistryState:
    revoked = replace(state.principals[event.name], revoked=True)
    return replace(state, principals=state.principals.set(event.name, revoked))


@_after.register
def _(event: ContentCondemned, state: RegistryState, _: Change) -> RegistryState:
    condemned = {digest: number + 1 for digest, number in event.generations.items()}
    return replace(state, generations=state.generations.update(condemned))


@_after.register
def _(_event: Refused, state: RegistryState, _: Change) -> RegistryState:
    return state


@singledispatch
def _changed(event: Any, record: VersionRecord, change: Change) -> VersionRecord:
    """A version's record after an event about it."""
    raise NotImplementedError(f"{type(event).__name__} of {record.ref} at {change.time}")


@_changed.register
def _(event: MetricsRecorded, record: VersionRecord, _: Change) -> VersionRecord:
    later = record.later_metrics.update(event.metrics)
    return replace(record, later_metrics=later, approvals=Map())  # what was approved is not known so well any more


@_changed.register
def _(event: VersionTagged, record: VersionRecord, _: Change) -> VersionRecord:
    return replace(record, tags=event.tags)


@_changed.register
def _(event: VersionSigned, record: VersionRecord, _: Change) -> VersionRecord:
    return replace(record, signatures=record.signatures.set(event.key, event))


@_changed.register
def _(event: VersionDeprecated, record: VersionRecord, _: Change) -> VersionRecord:
    return replace(record, deprecated=event.message)


@_changed.register
def _(event: VersionRetired, record: VersionRecord, change: Change) -> VersionRecord:
    return replace(record, retired=event.message, retired_at=change.time)


@_changed.register
def _(_event: VersionPurged, record: VersionRecord, _: Change) -> VersionRecord:
    return replace(record, purged=True)


@_changed.register
def _(event: PromotionApproved, record: VersionRecord, change: Change) -> VersionRecord:
    approvers = {*record.approvals.get(event.alias, ()), change.principal}
    return replace(record, approvals=record.approvals.set(event.alias, tuple(sorted(approvers))))


def _find(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise NotFoundError(f"There is no {what} {name!r}.", hint=did_you_mean(name, known))
    return known[name]
