"""``llamafarm registry quota``: limits of namespaces."""

from __future__ import annotations

from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Json, Reason
from llamafarm_ray.cli.terminal import print_json, say, size, table

__all__ = ["app"]

app = typer.Typer(help="Limits of namespaces: device hours, tokens, storage.", no_args_is_help=True)
Namespace = Annotated[
    str, typer.Argument(metavar="NAMESPACE", help="team-a for models such as team-a/bot; - for those without one.")
]


@app.command("show")
def show(home: Home = None, as_json: Json = False) -> None:
    """Show the limits in force, and the use of each."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.quotas import NO_NAMESPACE, quotas

    found = quotas(open_registry(home))
    if as_json:
        print_json({name: use.to_dict() for name, use in found.items()})
        return
    if not found:
        say("No namespace has limits.")
        return
    rows = []
    for name, use in found.items():
        quota, where = use.quota, name or NO_NAMESPACE
        if quota.device_hours is not None:
            rows.append((where, "device hours this month", f"{use.device_hours:,.3f}", f"{quota.device_hours:,g}"))
        if quota.tokens_per_day is not None:
            rows.append((where, "tokens today", f"{use.num_tokens:,}", f"{quota.tokens_per_day:,}"))
        if quota.storage_bytes is not None:
            rows.append((where, "storage", size(use.storage_bytes), size(quota.storage_bytes)))
    table("Quotas", ("namespace", "limit of", "used", "limit"), rows)


@app.command("set")
def set_(
    namespace: Namespace,
    device_hours: Annotated[
        float | None,
        typer.Option("--device-hours", min=0, help="Hours of GPUs (of CPU cores without one) in a calendar month."),
    ] = None,
    tokens_per_day: Annotated[
        int | None, typer.Option("--tokens-per-day", min=0, help="Tokens of prompts and answers on a day (UTC).")
    ] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", metavar="SIZE", help="Size of its versions' files, such as 50Gi.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="No limits any more.")] = False,
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Replace all limits of a namespace. It takes an admin."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.audit import quota_limits
    from llamafarm_ray.workflows.governance.quotas import parse_namespace, parse_quota, set_quota

    name, quota = parse_namespace(namespace), parse_quota(device_hours, tokens_per_day, storage)
    if quota.is_empty and not clear:
        raise InputError(
            "No limit was given.", hint="Give --device-hours, --tokens-per-day or --storage, or --clear for none."
        )
    if clear and not quota.is_empty:
        raise InputError("Limits and --clear were given.", hint="Limits replace the earlier ones; leave --clear out.")
    changed = set_quota(open_registry(home), name, quota, reason=reason)
    if as_json:
        print_json({"namespace": name, "changed": changed, "quota": quota.model_dump(mode="json")})
        return
    limits = ", ".join(f"{value} {what}" for what, value in quota_limits(quota).items()) or "no limits"
    say(f"{namespace}: {limits}.{'' if changed else ' So it was before.'}")
