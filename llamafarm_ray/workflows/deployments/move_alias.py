"""Promote and roll back: replicas that serve the model load the version first, then the alias moves."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass

from llamafarm_ray.errors import DeploymentError, LlamaFarmError, UserError
from llamafarm_ray.registry import DeploymentRecorded, RegistryApi, VersionRecord, check_alias, check_new_alias
from llamafarm_ray.registry.commands import Context, MoveAlias, Rollback
from llamafarm_ray.registry.events import AliasMoved
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.identity import Identity, name_of
from llamafarm_ray.types import ModelRef, Version
from llamafarm_ray.workflows.clusters.time_limit import within

__all__ = ["Moved", "promote", "rollback"]

_AT_ONCE = "`--now` moves it without loading anything first."
_URGENT_S = 30.0
"""Seconds that a rollback waits for replicas, since a replica that hangs may be its reason."""


@dataclass(frozen=True, slots=True)
class Moved:
    """An alias that was moved.

    Attributes:
        record: the version that it points at now.
        notes: problems, in sentences: replicas that did not load it first, endpoints that were not seen to follow.
    """

    record: VersionRecord
    notes: tuple[str, ...] = ()


def promote(
    registry: RegistryApi,
    reference: str,
    alias: str,
    *,
    reason: str = "",
    address: str | None = None,
    load: bool = True,
) -> Moved:
    """Point an alias at a version, if its policy allows it, once every replica that serves it has it loaded.

    Args:
        reference: ``name``, ``name:1.2.0`` or ``name@alias``.
        reason: reason, for the history.
        address: the cluster of the replicas; by default the recorded one, and where nothing answers there the alias
            moves all the same.
        load: True to load the version first.

    Raises:
        InputError: the alias is no name, or would be taken for something else.
        PolicyError: rules are not fulfilled; the message names them and the values.
        UserError: an engine refuses it; the alias stays.
        DeploymentError: a replica did not load it; the alias stays.
    """
    check_alias(alias)
    record = registry.resolve(reference)
    check_new_alias(alias, registry.state, record.registered.model)
    command = MoveAlias(ModelRef(record.registered.model, version=record.version), alias)
    return _move(registry, command, reason, address, load=load)


def rollback(
    registry: RegistryApi,
    name: str,
    alias: str,
    *,
    version: str | None = None,
    reason: str = "",
    address: str | None = None,
    load: bool = True,
) -> Moved:
    """Point an alias at its earlier target, or at a named version, as :func:`promote` does.

    In an emergency it does not wait for failing replicas: one that has not loaded the version after half a minute,
    or can't say, loads it later. Only an engine's refusal keeps the alias where it is.

    Raises:
        ConflictError: it never pointed at another version.
        LlamaFarmError: as for :func:`promote`.
    """
    registry.refresh()
    number = str(Version.parse(version)) if version is not None else None
    return _move(registry, Rollback(name, alias, number), reason, address, load=load)


def _move(
    registry: RegistryApi, command: MoveAlias | Rollback, reason: str, address: str | None, *, load: bool
) -> Moved:
    wanted = _goal(registry, command)
    if wanted is None:
        return Moved(_submit(registry, command, reason))
    is_urgent = isinstance(command, Rollback)
    if isinstance(command, Rollback):  # of two who roll back at once, the second must not go one further back
        command = Rollback(command.model, command.alias, wanted.registered.version)
    urls: list[str] = []
    notes: list[str] = []
    found = _deployments(registry, wanted) if load else []
    for at in dict.fromkeys([address] if address is not None else [one.ray_address for one in found]):
        there = [one for one in found if address is not None or one.ray_address == at]
        try:
            told = _load(registry, wanted, there, at, must_answer=address is not None, is_urgent=is_urgent)
        except LlamaFarmError as error:
            error.message = f"{wanted.registered.model}@{command.alias} stays where it is: {error.message}"
            error.hint = f"{error.hint} {_AT_ONCE}".lstrip()
            raise
        urls += told.urls
        notes += told.notes
    record = _submit(registry, command, reason)
    if urls:
        from llamafarm_ray.workflows.deployments.deployed import confirm

        try:
            confirm(urls, f"{record.registered.model}@{command.alias}", record.ref)
        except DeploymentError as error:  # the alias has moved
            notes.append(f"{error.message} {error.hint}")
    return Moved(record, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The endpoints of one cluster that have a version loaded, and what did not go as it should there."""

    urls: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def not_first(cls, why: str) -> _Loaded:
        return cls(notes=(f"{why} So it was not loaded there first, and first requests may wait for that.",))


def _load(
    registry: RegistryApi,
    wanted: VersionRecord,
    found: list[DeploymentRecorded],
    address: str,
    *,
    must_answer: bool,
    is_urgent: bool,
) -> _Loaded:
    """Load a version on the running replicas of one cluster; an urgent one with a time limit."""
    from ray.exceptions import RayError  # only who deploys needs it
    from ray.serve.exceptions import RayServeException

    from llamafarm_ray.workflows.clusters.cluster import connect, connect_if_up
    from llamafarm_ray.workflows.deployments.deployed import load, running_of

    def load_there() -> _Loaded:
        running = running_of(found, registry)
        away = " and ".join(one.application for one in found if one not in running)
        notes = _Loaded.not_first(f"No replica of {away} runs at {address}.").notes if away else ()
        return _Loaded(tuple(load(running, wanted)), notes)

    with contextlib.ExitStack() as stack:
        if must_answer:
            stack.enter_context(connect(address))
        elif trouble := stack.enter_context(connect_if_up(address)):
            return _Loaded.not_first(trouble)
        try:
            return within(_URGENT_S, load_there) if is_urgent else load_there()
        except (DeploymentError, RayError, RayServeException, TimeoutError) as error:
            if is_urgent:
                late = f"not within {_URGENT_S:g} s" if isinstance(error, TimeoutError) else _first_line(error)
                return _Loaded.not_first(f"The replicas at {address} could not be had to load it: {late}.")
            if isinstance(error, DeploymentError):
                raise
            raise DeploymentError(f"{wanted.ref} could not be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _goal(registry: RegistryApi, command: MoveAlias | Rollback) -> VersionRecord | None:
    """Return the alias's next version; ``None`` where it would not move, or the caller may not move it."""
    if not registry.may(Action.MOVE_ALIAS, command.namespace):
        return None
    context = Context(name_of(registry.state, Identity.from_environment()), dt.datetime.now(dt.UTC))
    try:
        events = command.decide(registry.state, context)
        for event in events:
            registry.state.check(event)
    except UserError:  # the registry says so itself, and puts it on record
        return None
    return next((registry.state.version(one.model, one.version) for one in events if isinstance(one, AliasMoved)), None)


def _deployments(registry: RegistryApi, record: VersionRecord) -> list[DeploymentRecorded]:
    """The recorded deployments that serve a version."""
    recorded = registry.state.deployments
    if not recorded:  # what serving imports takes half a second
        return []
    from llamafarm_ray.workflows.deployments.deployed import serving

    return serving(record, [recorded[name] for name in sorted(recorded)], registry)


def _submit(registry: RegistryApi, command: MoveAlias | Rollback, reason: str) -> VersionRecord:
    if isinstance(command, MoveAlias):
        return registry.promote(command.ref, command.alias, reason=reason)
    return registry.rollback(command.model, command.alias, version=command.version, reason=reason)
