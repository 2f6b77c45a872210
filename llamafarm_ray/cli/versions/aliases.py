"""``llamafarm models promote``, ``rollback``, ``unalias``, ``approve``: where aliases point."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import Address, Env, Home, Json, ModelName, Reason, Reference
from llamafarm_ray.cli.terminal import errors, print_json, say, waiting

if TYPE_CHECKING:
    from llamafarm_ray.workflows.deployments.move_alias import Moved

__all__ = ["approve", "promote", "rollback", "unalias"]

Now = Annotated[
    bool, typer.Option("--now", help="Move it at once; replicas load the version when they see that it moved.")
]
_MOVING = "moving the alias; replicas that serve the version load it first (--now does not wait)"


def promote(
    reference: Reference,
    env: Env = "production",
    reason: Reason = "",
    now: Now = False,
    home: Home = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Point an alias at a version, if the alias's policy allows it; replicas that serve it load it first."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments import move_alias

    with waiting(_MOVING, quiet=as_json or now):
        moved = move_alias.promote(open_registry(home), reference, env, reason=reason, address=address, load=not now)
    _show(moved, env, as_json=as_json)


def rollback(
    model: Annotated[str | None, typer.Argument(metavar="NAME", help="The model's name.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The same.")] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Version to return to; else the alias's previous one.")
    ] = None,
    env: Env = "production",
    reason: Reason = "",
    now: Now = False,
    home: Home = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Point an alias back at its earlier target; replicas that serve it load it first."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import check_name, open_registry
    from llamafarm_ray.workflows.deployments import move_alias

    chosen = model or name
    if chosen is None or (model and name):
        raise InputError("It takes one model's name.", hint="llamafarm models rollback --name support-bot")
    check_name(chosen)
    with waiting(_MOVING, quiet=as_json or now):
        moved = move_alias.rollback(
            open_registry(home), chosen, env, version=version, reason=reason, address=address, load=not now
        )
    _show(moved, env, as_json=as_json)


def unalias(
    name: ModelName,
    env: Annotated[str, typer.Option("--env", help="The alias.")],
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Remove an alias, so that its target can be retired."""
    from llamafarm_ray.registry import check_name, open_registry

    check_name(name)
    open_registry(home).unalias(name, env, reason=reason)
    if as_json:
        print_json({"alias": f"{name}@{env}", "version": None})
        return
    say(f"{name}@{env} points at nothing now.")


def approve(
    reference: Reference, env: Env = "production", reason: Reason = "", home: Home = None, as_json: Json = False
) -> None:
    """Agree that an alias may point at a version."""
    from llamafarm_ray.registry import open_registry

    registry = open_registry(home)
    record = registry.approve(reference, env, reason=reason)
    approvers = registry.state.approvers(record, env, dt.datetime.now(dt.UTC))
    if as_json:
        print_json({"version": record.ref, "alias": env, "approvals": approvers})
        return
    say(f"{record.ref} is approved for {env} by {', '.join(approvers)}.")


def _show(moved: Moved, alias: str, *, as_json: bool) -> None:
    record = moved.record
    name = f"{record.registered.model}@{alias}"
    if as_json:
        digest = record.registered.manifest
        print_json({"alias": name, "version": record.ref, "digest": digest, "notes": list(moved.notes)})
        return
    say(f"{name} is now {record.ref}.")
    for note in moved.notes:
        errors.line(note)
