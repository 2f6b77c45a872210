"""``llamafarm registry audit``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Json, moment
from llamafarm_ray.cli.terminal import local_time, print_json, say, table

__all__ = ["command"]


def command(
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="From then on: 2026-11-17T14:00 (local time), or 2d ago."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Up to then; a day alone is its beginning.")
    ] = None,
    principal: Annotated[str | None, typer.Option("--principal", help="Only what they did.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Only what is about it.")] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    format_: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the audit: principals, actions, times and reasons, oldest first, with refused attempts."""
    from llamafarm_ray.errors import InputError, did_you_mean
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.audit import audit, to_csv

    if format_ not in {"table", "csv", "json"}:
        raise InputError(f"{format_!r} is no format.", hint=did_you_mean(format_, ("table", "csv", "json")))
    found = audit(
        open_registry(home),
        since=moment(since) if since else None,
        until=moment(until) if until else None,
        principal=principal,
        model=model,
        refused=refused,
    )
    if as_json or format_ == "json":
        print_json([entry.to_dict() for entry in found])
    elif format_ == "csv":
        sys.stdout.write(to_csv(found))
    elif found:
        columns = ("time", "commit", "by", "what", "target", "details", "reason")
        rows = [
            (
                local_time(e.time),
                e.sequence,
                e.principal,
                e.action,
                e.target,
                e.details if e.details != e.reason else "",
                e.reason,
            )
            for e in found
        ]
        table("Audit", columns, rows, drop_empty=True)
    else:
        say("Nothing matches.")
