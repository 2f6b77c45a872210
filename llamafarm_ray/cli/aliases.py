"""``llamafarm models promote``, ``rollback``, ``unalias``, ``approve``: where aliases point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import Env, Home, Json, Reason, Reference
from llamafarm_ray.cli.terminal import print_json, say

if TYPE_CHECKING:
    from llamafarm_ray.registry import VersionRecord

__all__ = ["approve", "promote", "rollback", "unalias"]


def promote(
    reference: Reference, env: Env = "production", reason: Reason = "", home: Home = None, as_json: Json = False
) -> None:
    """Point an alias at a version, if the alias's policy allows it."""
    from llamafarm_ray.registry import open_registry

    _show(open_registry(home).promote(reference, env, reason=reason), env, as_json=as_json)


def rollback(
    model: Annotated[str | None, typer.Argument(metavar="NAME", help="The model's name.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The same.")] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Where to; else what the alias pointed at before.")
    ] = None,
    env: Env = "production",
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Point an alias back at what it pointed at before."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import check_name, open_registry

    chosen = model or name
    if chosen is None or (model and name):
        raise InputError("It takes one model's name.", hint="llamafarm models rollback --name support-bot")
    check_name(chosen)
    _show(open_registry(home).rollback(chosen, env, version=version, reason=reason), env, as_json=as_json)


def unalias(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    env: Annotated[str, typer.Option("--env", help="The alias.")],
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Have an alias point at nothing, so that what it pointed at can be retired."""
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

    record = open_registry(home).approve(reference, env, reason=reason)
    approvers = record.approvals.get(env, ())
    if as_json:
        print_json({"version": record.ref, "alias": env, "approvals": approvers})
        return
    say(f"{record.ref} is approved for {env} by {', '.join(approvers)}.")


def _show(record: VersionRecord, alias: str, *, as_json: bool) -> None:
    name = f"{record.registered.model}@{alias}"
    if as_json:
        print_json({"alias": name, "version": record.ref, "digest": record.registered.manifest})
        return
    say(f"{name} is now {record.ref}.")
