"""The whole state of a registry, with its queries and updates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from immutables import Map

from llamafarm_ray.errors import NotFoundError, PolicyError, did_you_mean
from llamafarm_ray.registry.events import DatasetRegistered, DeploymentRecorded, Event
from llamafarm_ray.registry.governance.access import Action, allows
from llamafarm_ray.registry.governance.policy import Policy
from llamafarm_ray.registry.governance.quota import Quota
from llamafarm_ray.registry.log import Change, Commit
from llamafarm_ray.registry.state.changes import after
from llamafarm_ray.registry.state.checks import check
from llamafarm_ray.registry.state.records import (
    Approval,
    ModelRecord,
    Principal,
    RolloutRecord,
    Trie,
    VersionRecord,
    find,
)
from llamafarm_ray.types import Digest, ModelRef

__all__ = ["DEFAULT_ALIAS", "RegistryState"]

DEFAULT_ALIAS = "production"
"""Alias that a bare model name stands for, where it is set."""
_BEGINNING = dt.datetime.fromtimestamp(0, dt.UTC)


@dataclass(frozen=True, slots=True)
class RegistryState:
    """Everything the log says up to commit ``sequence``. :meth:`check` guards an event, :meth:`after` takes it in."""

    sequence: int = 0
    time: dt.datetime = _BEGINNING
    turned_back: int = 0
    """The last commit that is dated before the one before it, which was dated wrongly then; 0 where there is none."""
    models: Trie[ModelRecord] = field(default_factory=Map)
    datasets: Trie[tuple[DatasetRegistered, ...]] = field(default_factory=Map)
    deployments: Trie[DeploymentRecorded] = field(default_factory=Map)
    rollouts: Trie[tuple[RolloutRecord, ...]] = field(default_factory=Map)
    """All rollouts of an alias, the newest last, by ``name@alias``."""
    policies: Trie[Policy] = field(default_factory=Map)
    quotas: Trie[Quota] = field(default_factory=Map)
    """Limits by namespace."""
    principals: Trie[Principal] = field(default_factory=Map)
    generations: Trie[int] = field(default_factory=Map)
    """The generation that a digest's bytes are stored under, where it isn't 0."""
    commits_by_key: Trie[int] = field(default_factory=Map)
    last_key: str = ""
    """The idempotency key of the last change. With ``sequence``, it identifies this log among restored ones."""

    def after(self, commit: Commit) -> RegistryState:
        """The state with a commit taken in. The log only holds what passed :meth:`check`: nothing can fail here."""
        state = self
        for change in commit.changes:
            state = state.after_change(change, commit.sequence)
        turned_back = commit.sequence if commit.time < self.time else self.turned_back
        return replace(state, sequence=commit.sequence, time=commit.time, turned_back=turned_back)

    def after_change(self, change: Change, sequence: int) -> RegistryState:
        """The state with one change of the commit ``sequence`` taken in."""
        state = self
        for event in change.events:
            state = after(event, state, change)
        key = change.idempotency_key
        return replace(state, commits_by_key=state.commits_by_key.set(key, sequence), last_key=key)

    def check(self, event: Event) -> None:
        """Check that an event may follow this state.

        Raises:
            ConflictError: the version number was used already, a retired version would be used, ...
            NotFoundError: the event is about a version, deployment or principal that there isn't.
        """
        check(event, self)

    def at_alias(self, model: str, alias: str) -> VersionRecord | None:
        """Return the version that an alias of a model points at; None if there is no such alias."""
        known = self.models[model]
        moves = known.aliases.get(alias)
        return known.versions[moves[-1].version] if moves else None

    def resolve(self, ref: ModelRef) -> VersionRecord:
        """Return the version of a reference. A bare name means ``@production`` if that alias is set, else the latest.

        Raises:
            NotFoundError: there is no such model, version or alias; near names are in the hint.
            PolicyError: it is a bare name, ``production`` has rules, and is not set.
        """
        model = self.model(ref.name)
        if ref.version is not None:
            return self.version(ref.name, str(ref.version))
        if ref.alias is not None and ref.alias not in model.aliases:
            raise NotFoundError(f"{ref.name} has no alias {ref.alias!r}.", hint=_about_alias(model, ref.alias))
        moves = model.aliases.get(ref.alias or DEFAULT_ALIAS)
        if moves:
            return model.versions[moves[-1].version]
        if self.has_rules(DEFAULT_ALIAS):
            raise PolicyError(
                f"{ref.name!r} alone means {ref.name}@{DEFAULT_ALIAS}, which is not set, and the latest version does "
                f"not take its place, since {DEFAULT_ALIAS!r} has rules.",
                rules=("bare_name",),
                hint=f"Name a version, such as {model.latest.ref}, or promote one.",
            )
        return model.latest

    def has_rules(self, alias: str) -> bool:
        """Return True if an alias has a policy that asks for something."""
        policy = self.policies.get(alias)
        return policy is not None and not policy.is_empty

    def approval_by(self, principal: str) -> Approval:
        """Return the approval that a principal gives now."""
        known = self.principals.get(principal)
        return Approval(principal, known.generation if known is not None else 0)

    def approvers(self, record: VersionRecord, alias: str, now: dt.datetime, *, by_name: bool = False) -> list[str]:
        """Return the names of those whose approval of a version counts.

        Once there are principals, that takes the token the approval was given with, still good, and still the right.

        Args:
            by_name: count approvals of earlier tokens of the same name too.
        """
        given = record.approvals.get(alias, ())
        if not self.principals:
            return sorted({approval.principal for approval in given})
        namespace = ModelRef(record.registered.model).namespace
        givers = {
            known.name: known
            for approval in given
            if (known := self.principals.get(approval.principal)) is not None
            and (by_name or known.generation == approval.generation)
        }
        return sorted(
            name
            for name, known in givers.items()
            if known.is_valid(now) and allows(known.grants, Action.APPROVE, namespace)
        )

    def version(self, name: str, number: str) -> VersionRecord:
        """The version of that number.

        Raises:
            NotFoundError: there is no such model or version.
        """
        model = self.model(name)
        if number not in model.versions:
            raise NotFoundError(f"{name} has no version {number}.", hint=did_you_mean(number, model.versions))
        return model.versions[number]

    def rollout(self, model: str, alias: str, number: int | None = None) -> RolloutRecord:
        """The newest rollout of an alias, or the one of that number.

        Raises:
            NotFoundError: there is none.
        """
        target = f"{model}@{alias}"
        known = self.rollouts.get(target, ())
        if not known:
            raise NotFoundError(f"{target} never had a rollout.", hint=did_you_mean(target, self._rollouts_near(model)))
        if number is not None and not 1 <= number <= len(known):
            raise NotFoundError(f"{target} has no rollout {number}.", hint=f"It had {len(known)}.")
        return known[number - 1 if number is not None else -1]

    def rollout_under_way(self, model: str, alias: str) -> RolloutRecord | None:
        """The rollout that splits an alias's requests now."""
        newest = self.rollouts.get(f"{model}@{alias}", (None,))[-1]
        return newest if newest is not None and newest.status.is_under_way else None

    def rollouts_under_way(self) -> Iterator[RolloutRecord]:
        """All rollouts that split requests now, in no order."""
        return (known[-1] for known in self.rollouts.values() if known[-1].status.is_under_way)

    def with_rollout(self, rollout: RolloutRecord) -> RegistryState:
        """This state with a rollout added, or changed: the newest of its alias."""
        others = self.rollouts.get(rollout.target, ())[: rollout.number - 1]
        return replace(self, rollouts=self.rollouts.set(rollout.target, (*others, rollout)))

    def quota(self, namespace: str) -> Quota:
        """Return the limits of a namespace; an empty quota where it has none."""
        return self.quotas.get(namespace) or Quota()

    def versions_in(self, namespace: str) -> Iterator[VersionRecord]:
        """Yield the versions of a namespace's models, in no order."""
        for name, model in self.models.items():
            if ModelRef(name).namespace == namespace:
                yield from model.versions.values()

    def versions(self) -> Iterator[VersionRecord]:
        """All versions of all models, in no order."""
        for model in self.models.values():
            yield from model.versions.values()

    def with_content(self, manifest: str) -> Iterator[VersionRecord]:
        """The versions that have these files."""
        return (record for record in self.versions() if record.registered.manifest == manifest)

    def descends(self, manifest: str, ancestor: str) -> bool:
        """Return True if a registered model was made from another, in any number of steps."""
        seen: set[str] = set()
        left = {manifest}
        while left:
            one = left.pop()
            seen.add(one)
            for record in self.with_content(one):
                facts = record.registered
                left |= {digest for digest in (facts.base_digest, *facts.derived_from) if digest} - seen
        return ancestor in seen - {manifest}

    def dataset_named(self, name: str) -> DatasetRegistered:
        """The newest dataset of a name.

        Raises:
            NotFoundError: there is none.
        """
        return find(self.datasets, name, "dataset")[-1]

    def stored_datasets(self) -> Iterator[Digest]:
        """Yield the manifests of datasets whose files the home stores."""
        for registered in self.datasets.values():
            yield from (Digest(one.manifest) for one in registered if one.manifest is not None)

    def _rollouts_near(self, model: str) -> list[str]:
        namespace = ModelRef(model).namespace  # as for models: names of other namespaces are not given away
        return [target for target in self.rollouts if not self.principals or _namespace(target) == namespace]

    def model(self, name: str) -> ModelRecord:
        """Return the model of that name.

        Raises:
            NotFoundError: there is none; near names are in the hint.
        """
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


def _namespace(target: str) -> str:
    return target.rpartition("/")[0]


def _about_alias(model: ModelRecord, alias: str) -> str:
    """Return a hint about an alias that a model does not have: its last version if it was removed, else near names."""
    removed = model.removed.get(alias)
    if not removed:
        return did_you_mean(alias, model.aliases)
    last = model.versions[removed[-1].version]
    if last.retired is not None:
        return f"It pointed at {last.ref}, which is retired, until it was removed. Promote another version."
    return (
        f"It pointed at {last.ref} until it was removed; `llamafarm models promote {last.ref} --env {alias}` "
        "sets it again."
    )
