"""The registry's state: a pure function of the log. No input, no output, no clock."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from llamafarm_ray.errors import ConflictError, NotFoundError, did_you_mean
from llamafarm_ray.registry.events import (
    AliasMoved,
    DatasetRegistered,
    DeploymentRecorded,
    DeploymentRemoved,
    Event,
    VersionRegistered,
)
from llamafarm_ray.registry.log import Commit
from llamafarm_ray.types import ModelRef, Version

__all__ = ["AliasMove", "ModelRecord", "RegistryState", "VersionRecord"]


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A registered version, and when and by whom it was registered."""

    registered: VersionRegistered
    time: dt.datetime
    principal: str

    @property
    def ref(self) -> str:
        """``name:version``."""
        return f"{self.registered.model}:{self.registered.version}"

    @property
    def version(self) -> Version:
        """Its number, comparable."""
        return Version.parse(self.registered.version)


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One step of an alias's history."""

    version: str
    time: dt.datetime
    principal: str
    reason: str


@dataclass(slots=True)
class ModelRecord:
    """A model: its versions by number, and each alias's moves, oldest first."""

    name: str
    versions: dict[str, VersionRecord] = field(default_factory=dict)
    aliases: dict[str, list[AliasMove]] = field(default_factory=dict)

    @property
    def latest(self) -> VersionRecord:
        """The highest version; a pre-release only where there is nothing else."""
        return max(self.versions.values(), key=lambda record: (not record.version.prerelease, record.version))


class RegistryState:
    """Everything the log says so far. :meth:`check` guards an event, :meth:`apply` takes a commit in."""

    def __init__(self) -> None:
        self.models: dict[str, ModelRecord] = {}
        self.datasets: dict[str, dict[str, DatasetRegistered]] = {}
        self.deployments: dict[str, DeploymentRecorded] = {}
        self.commits_by_key: dict[str, int] = {}
        self.sequence = 0

    def apply(self, commit: Commit) -> None:
        """Take a commit in. The log only holds events that passed :meth:`check`, so nothing can fail here."""
        for event in commit.events:
            self._apply(event, commit)
        self.commits_by_key[commit.idempotency_key] = commit.sequence
        self.sequence = commit.sequence

    def check(self, event: Event) -> None:
        """Whether an event may follow this state.

        Raises:
            ConflictError: the version number was used already.
            NotFoundError: an alias would point at a version that is not registered.
        """
        match event:
            case VersionRegistered():
                record = self.models.get(event.model)
                if record is not None and event.version in record.versions:
                    raise ConflictError(
                        f"{event.model}:{event.version} is registered already, and a version never changes.",
                        hint=f"The highest is {record.latest.registered.version}: register a higher one.",
                    )
            case AliasMoved():
                self.resolve(ModelRef(event.model, version=Version.parse(event.version)))
            case DeploymentRemoved():
                if event.application not in self.deployments:
                    raise NotFoundError(
                        f"There is no deployment {event.application!r}.",
                        hint=did_you_mean(event.application, self.deployments),
                    )

    def resolve(self, ref: ModelRef) -> VersionRecord:
        """The version a reference names; a bare name means ``@production`` if that alias is set, else the latest.

        Raises:
            NotFoundError: there is no such model, version or alias; near names are in the hint.
        """
        record = self.models.get(ref.name)
        if record is None:
            raise NotFoundError(f"There is no model {ref.name!r}.", hint=did_you_mean(ref.name, self.models))
        if ref.version is not None:
            version = str(ref.version)
            if version not in record.versions:
                raise NotFoundError(
                    f"{ref.name} has no version {version}.", hint=did_you_mean(version, record.versions)
                )
            return record.versions[version]
        if ref.alias is not None and ref.alias not in record.aliases:
            raise NotFoundError(f"{ref.name} has no alias {ref.alias!r}.", hint=did_you_mean(ref.alias, record.aliases))
        moves = record.aliases.get(ref.alias or "production")
        return record.versions[moves[-1].version] if moves else record.latest

    def dataset_named(self, name: str) -> DatasetRegistered:
        """The newest dataset of a name.

        Raises:
            NotFoundError: there is none.
        """
        if name not in self.datasets:
            raise NotFoundError(f"There is no dataset {name!r}.", hint=did_you_mean(name, self.datasets))
        return list(self.datasets[name].values())[-1]

    def _apply(self, event: Event, commit: Commit) -> None:
        match event:
            case VersionRegistered():
                model = self.models.setdefault(event.model, ModelRecord(event.model))
                model.versions[event.version] = VersionRecord(event, commit.time, commit.principal)
            case AliasMoved():
                move = AliasMove(event.version, commit.time, commit.principal, commit.reason)
                self.models[event.model].aliases.setdefault(event.alias, []).append(move)
            case DatasetRegistered():
                versions = self.datasets.setdefault(event.name, {})
                versions.pop(event.digest, None)  # registered again: it is the newest now
                versions[event.digest] = event
            case DeploymentRecorded():
                self.deployments[event.application] = event
            case DeploymentRemoved():
                self.deployments.pop(event.application, None)
