"""Promote and roll back: replicas that serve the version load it first, where there are any, then the alias moves."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from llamafarm_ray.errors import ClusterError, LlamaFarmError, UserError
from llamafarm_ray.registry import DeploymentRecorded, RegistryApi, VersionRecord, check_alias
from llamafarm_ray.registry.access import Action
from llamafarm_ray.registry.commands import Context, MoveAlias, Rollback
from llamafarm_ray.registry.events import AliasMoved
from llamafarm_ray.registry.identity import Identity, name_of
from llamafarm_ray.types import ModelRef, Version

__all__ = ["Moved", "promote", "rollback"]

_AT_ONCE = "`--now` moves it without loading anything first."


@dataclass(frozen=True, slots=True)
class Moved:
    """An alias that was moved.

    Attributes:
        record: the version that it points at now.
        not_loaded: why no replica of a deployment on record was asked to load it before; empty where they were, where
            nothing on record serves it, and where nobody wanted it.
    """

    record: VersionRecord
    not_loaded: str = ""


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
        registry: where the alias is.
        reference: ``name``, ``name:1.2.0`` or ``name@alias``.
        alias: the alias of the same model.
        reason: why, for the history.
        address: the cluster of the replicas; by default the recorded one, and where nothing answers there the alias
            moves all the same.
        load: whether anything is loaded first.

    Raises:
        PolicyError: which rules are not fulfilled, and with which values.
        LlamaFarmError: a replica can't load it; the alias stays.
        DeploymentError: likewise; or the alias has moved, and an endpoint does not follow.
    """
    check_alias(alias)
    record = registry.resolve(reference)
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
    """Point an alias at what it pointed at before, or at a named version, as :func:`promote` does.

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
    if isinstance(command, Rollback):  # of two who roll back at once, the second must not go one further back
        command = Rollback(command.model, command.alias, wanted.registered.version)
    found = _deployments(registry, wanted) if load else []
    if not found:
        return Moved(_submit(registry, command, reason))
    from llamafarm_ray.workflows.cluster import connect, connect_if_up  # noqa: PLC0415  (only who deploys needs it)

    if address is not None:
        with connect(address):
            return _load_and_move(registry, command, reason, wanted, found)
    with connect_if_up(found[0].ray_address) as trouble:
        if trouble:
            return Moved(_submit(registry, command, reason), trouble)
        return _load_and_move(registry, command, reason, wanted, found)


def _load_and_move(
    registry: RegistryApi,
    command: MoveAlias | Rollback,
    reason: str,
    wanted: VersionRecord,
    found: list[DeploymentRecorded],
) -> Moved:
    from ray.exceptions import RayError  # noqa: PLC0415  (as above)
    from ray.serve.exceptions import RayServeException  # noqa: PLC0415

    from llamafarm_ray.serving.replicas import is_serving  # noqa: PLC0415
    from llamafarm_ray.workflows.deployed import load_then_move  # noqa: PLC0415

    try:
        up = [one for one in found if is_serving(one.application)]
    except (RayError, RayServeException) as error:
        return Moved(_submit(registry, command, reason), f"Ray Serve does not answer: {_first_line(error)}")
    if not up:
        names = " and ".join(one.application for one in found)
        return Moved(_submit(registry, command, reason), f"No replica of {names} runs at {found[0].ray_address}.")
    stays = f"{wanted.registered.model}@{command.alias} stays where it is"
    has_tried = False

    def move() -> None:
        nonlocal has_tried
        has_tried = True
        _submit(registry, command, reason)

    try:
        load_then_move(up, wanted, command.alias, move)
    except LlamaFarmError as error:
        if not has_tried:
            error.message = f"{stays}: {error.message}"
            error.hint = f"{error.hint} {_AT_ONCE}".lstrip()
        raise
    except (RayError, RayServeException) as error:
        if has_tried:
            raise
        raise ClusterError(f"{stays}: {wanted.ref} could not be loaded: {_first_line(error)}", hint=_AT_ONCE) from error
    return Moved(wanted)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _goal(registry: RegistryApi, command: MoveAlias | Rollback) -> VersionRecord | None:
    """What the alias would point at afterwards; ``None`` where it would not move, or whoever asks may not move it."""
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
    from llamafarm_ray.workflows.deployed import serving  # noqa: PLC0415

    return serving(record, [recorded[name] for name in sorted(recorded)], registry)


def _submit(registry: RegistryApi, command: MoveAlias | Rollback, reason: str) -> VersionRecord:
    if isinstance(command, MoveAlias):
        return registry.promote(command.ref, command.alias, reason=reason)
    return registry.rollback(command.model, command.alias, version=command.version, reason=reason)
