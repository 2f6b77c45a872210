"""Records of a registry's state: models, versions, aliases and principals. They are immutable."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar, get_args

from immutables import Map
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from llamafarm_ray.errors import NotFoundError, did_you_mean
from llamafarm_ray.registry.events import VersionRegistered, VersionSigned
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.rollouts import AbPlan, Plan, RolloutStatus, ShadowPlan, Step
from llamafarm_ray.types import Version

__all__ = [
    "AliasMove",
    "Approval",
    "ModelRecord",
    "Principal",
    "RolloutChange",
    "RolloutRecord",
    "Trie",
    "VersionRecord",
    "find",
]

T = TypeVar("T")


class _TrieSchema:
    """Lets pydantic write a map of a state as a JSON object, and read it back."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = handler.generate_schema(dict[get_args(source)])  # type: ignore[misc]
        return core_schema.no_info_after_validator_function(
            Map, plain, serialization=core_schema.plain_serializer_function_ser_schema(dict, return_schema=plain)
        )


Trie = Annotated[Map[str, T], _TrieSchema()]


@dataclass(frozen=True, slots=True, order=True)
class Approval:
    """An approval of a version for an alias.

    Attributes:
        generation: the generation of the principal's token; 0 for an approval from before access control.
    """

    principal: str
    generation: int


_EVALUATION_SET = re.compile(r"([^@]+)@(sha256:[0-9a-f]{64})")
EVALUATED_ON = "evaluated_on"
"""The group of a version's results on other files than those that it was trained on."""


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A registered version and everything that happened to it.

    Attributes:
        registered: facts given at registration.
        later_metrics: results recorded after registration; they win over those of ``registered``.
        approvals: its approvals by alias, whether or not they still count.
        signatures: by digest of the public key.
        deprecated: reason against further use; ``None`` without one.
        retired: reason for its retirement; ``None`` while it lives.
        purged: True if its content was deleted.
    """

    registered: VersionRegistered
    time: dt.datetime
    principal: str
    tags: tuple[str, ...] = ()
    later_metrics: Trie[object] = field(default_factory=Map)
    approvals: Trie[tuple[Approval, ...]] = field(default_factory=Map)
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
    def metrics(self) -> Mapping[str, object]:
        """All evaluation results."""
        return {**self.registered.metrics, **self.later_metrics}

    @property
    def evaluated_on(self) -> Mapping[str, Mapping[str, Any]]:
        """Results of an adapter on other files than those that it was trained on, by the digests of their manifests."""
        found = self.metrics.get(EVALUATED_ON)
        if not isinstance(found, Mapping):
            return {}
        return {digest: results for digest, results in found.items() if isinstance(results, Mapping)}

    @property
    def evaluation_sets(self) -> frozenset[tuple[str, str]]:
        """Names and digests of the registered evaluation sets in its results."""
        results = self.metrics.get("evaluation_results")
        benchmarks = results.get("benchmarks") if isinstance(results, Mapping) else None
        named = (
            _EVALUATION_SET.fullmatch(str(scores.get("dataset", "")))
            for scores in (benchmarks.values() if isinstance(benchmarks, Mapping) else ())
            if isinstance(scores, Mapping)
        )
        return frozenset((found[1], found[2]) for found in named if found)

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
    """A model: its versions by number, each alias's moves, and those of aliases that were removed, oldest first."""

    name: str
    highest: str
    """The highest version that lives; a pre-release, then a retired one, only where there is nothing else."""
    highest_ever: str
    """The highest number that was ever used; a pre-release only where there is nothing else."""
    versions: Trie[VersionRecord] = field(default_factory=Map)
    aliases: Trie[tuple[AliasMove, ...]] = field(default_factory=Map)
    removed: Trie[tuple[AliasMove, ...]] = field(default_factory=Map)

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


@dataclass(frozen=True, slots=True)
class RolloutChange:
    """One step of a rollout's history: its new state, time, author and reason."""

    status: RolloutStatus
    step: int
    time: dt.datetime
    principal: str
    reason: str


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """A rollout of a candidate to an alias, under way or over.

    Attributes:
        alias: the alias whose requests are split.
        number: its number among the alias's rollouts, from 1.
        baseline: the version (its number) that the alias pointed at when it started.
        candidate: the version that shall take its place.
        step_since: since when the step lasts; time in which the rollout was paused is not counted.
        changes: its history, oldest first; the start is the first.
    """

    model: str
    alias: str
    number: int
    baseline: str
    candidate: str
    plan: Plan
    step_since: dt.datetime
    changes: tuple[RolloutChange, ...]

    @property
    def target(self) -> str:
        """``name@alias``."""
        return f"{self.model}@{self.alias}"

    @property
    def id(self) -> str:
        """``name@alias#number``: no other rollout has it, ever."""
        return f"{self.target}#{self.number}"

    @property
    def status(self) -> RolloutStatus:
        """Status of the rollout."""
        return self.changes[-1].status

    @property
    def step(self) -> int:
        """The index of the plan's current (or last) step."""
        return self.changes[-1].step

    @property
    def steps(self) -> tuple[Step, ...]:
        """The plan's steps; kinds without any have one."""
        if isinstance(self.plan, AbPlan):
            return (Step(percent=self.plan.percent, dwell_s=0),)
        if isinstance(self.plan, ShadowPlan):
            return (Step(percent=self.plan.percent, dwell_s=self.plan.dwell_s),)
        return self.plan.steps

    @property
    def percent(self) -> float:
        """The share of requests that the candidate gets now (shadow: gets a copy of), 0 to 100."""
        return self.steps[self.step].percent if self.status.is_under_way else 0.0

    def after(self, change: RolloutChange) -> RolloutRecord:
        """This rollout with one more step of its history."""
        since = self.step_since
        if change.step != self.step:
            since = change.time
        elif self.status is RolloutStatus.PAUSED:
            since += change.time - self.changes[-1].time
        return replace(self, step_since=since, changes=(*self.changes, change))


def _height(record: VersionRecord) -> tuple[bool, bool, Version]:
    return (record.retired is None, *_precedence(record.registered.version))


def _precedence(number: str) -> tuple[bool, Version]:
    version = Version.parse(number)
    return (not version.prerelease, version)


@dataclass(frozen=True, slots=True)
class Principal:
    """A holder of a token. Expired and revoked ones stay on record.

    Each token of a name is a ``generation`` of its own, counted from 1: a principal that is revoked and added again
    inherits nothing.
    """

    name: str
    token_digest: str
    grants: Trie[Role]
    expires: dt.datetime | None
    revoked: bool = False
    generation: int = 1

    def is_valid(self, now: dt.datetime) -> bool:
        """Return True if the token is valid at a time."""
        return not self.revoked and (self.expires is None or self.expires > now)


def find(known: Mapping[str, T], name: str, what: str) -> T:
    """Return the item of that name.

    Raises:
        NotFoundError: nothing has; near names are in the hint.
    """
    if name not in known:
        raise NotFoundError(f"There is no {what} {name!r}.", hint=did_you_mean(name, known))
    return known[name]
