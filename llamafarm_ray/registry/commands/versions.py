"""Commands about versions and datasets: registration, and later additions to the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.registry.commands.base import Command, Context, OfVersion, check_stored, event_of
from llamafarm_ray.registry.events import (
    DatasetRegistered,
    Event,
    MetricsRecorded,
    VersionDeprecated,
    VersionRegistered,
    VersionRetired,
    VersionSigned,
    VersionTagged,
)
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.governance.policy import metric_value
from llamafarm_ray.registry.references import check_free_for
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.registry.usage.quotas import check_storage
from llamafarm_ray.types import Digest, ModelKind, Version

__all__ = ["Bump", "Deprecate", "RecordMetrics", "Register", "RegisterDataset", "Retire", "Sign", "Tag"]

Bump = Literal["major", "minor", "patch"]


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
    details: Mapping[str, object] = field(default_factory=dict)
    stored: Mapping[Digest, int] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The model's name."""
        return self.model

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event, with the number chosen.

        Raises:
            InputError: requests use the name for something else.
            ConflictError: the name has versions of another kind.
            PolicyError: the quota of the namespace leaves no room for its files.
        """
        del context
        check_free_for(self.kind, self.model, state)
        check_stored(state, self.stored)
        quota = state.quota(self.namespace)
        check_storage(quota, self.namespace, state.versions_in(self.namespace), self.manifest, self.size_bytes)
        return [
            event_of(
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
class RecordMetrics(OfVersion):
    """Add evaluation results to a version."""

    action = Action.RECORD_METRICS
    metrics: Mapping[str, object] = field(default_factory=dict)

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
        return [event_of(MetricsRecorded, **self._names(state), metrics=dict(self.metrics))]


@dataclass(frozen=True)
class Tag(OfVersion):
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
        return [event_of(VersionTagged, **self._names(state), tags=tags)] if tags != before else []


@dataclass(frozen=True)
class Sign(OfVersion):
    """Record a version's stored signature."""

    action = Action.SIGN
    signature: str = ""
    public_key: str = ""
    key: str = ""
    stored: Mapping[Digest, int] = field(default_factory=dict)

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        check_stored(state, self.stored)
        return [
            event_of(
                VersionSigned, **self._names(state), signature=self.signature, public_key=self.public_key, key=self.key
            )
        ]


@dataclass(frozen=True)
class Deprecate(OfVersion):
    """Tell people to use another version."""

    action = Action.DEPRECATE
    message: str = ""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        return [event_of(VersionDeprecated, **self._names(state), message=self.message)]


@dataclass(frozen=True)
class Retire(OfVersion):
    """End a version's life. The reference must name its number."""

    action = Action.RETIRE
    message: str = ""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        if self.ref.version is None:
            raise InputError(f"{self.ref} does not say which version.", hint=f"Write it like {self.ref.name}:1.2.0.")
        return [event_of(VersionRetired, **self._names(state), message=self.message)]


@dataclass(frozen=True)
class RegisterDataset(Command):
    """Record a built dataset, or an evaluation set with its stored files.

    Attributes:
        stored: the generation that each of its blobs and its manifest was published under.
    """

    action = Action.REGISTER_DATASET
    dataset: DatasetRegistered
    stored: Mapping[Digest, int] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The dataset's name."""
        return self.dataset.name

    @property
    def manifest(self) -> Digest | None:
        """Manifest of its stored files; None where the home stores none."""
        manifest = getattr(self.dataset, "manifest", None)  # what is no event is refused with the commit's others
        return Digest(manifest) if manifest is not None else None

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        check_stored(state, self.stored)
        return [self.dataset]


def _next_version(state: RegistryState, name: str, bump: Bump) -> str:
    model = state.models.get(name)
    if model is None:
        return "1.0.0"
    highest = Version.parse(model.highest_ever)
    if highest.prerelease:
        return str(Version(highest.major, highest.minor, highest.patch))
    return str(highest.bump(bump))
