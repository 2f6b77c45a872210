"""``llamafarm up``, ``llamafarm down`` and ``llamafarm cluster``."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from llamafarm_ray.cli.options import Address, Home, Json
from llamafarm_ray.cli.terminal import console, facts, local_time, print_json, say, size, table, waiting
from llamafarm_ray.types import duration

if TYPE_CHECKING:
    from llamafarm_ray.clusters.standing import StandingRay
    from llamafarm_ray.registry.usage import Work
    from llamafarm_ray.workflows.accounting.cost import CostReport

__all__ = ["app", "down", "up"]

app = typer.Typer(help="Look after the Ray that commands use.", no_args_is_help=True)

_HOURS: Final[dict[str, tuple[Work, ...]]] = {
    "build h": ("dataset",),
    "train h": ("train", "tune"),
    "eval h": ("evaluate",),
    "serve h": ("serve", "idle"),
}
"""Columns with hours of devices, and the kinds of work that each adds up."""


def up(
    idle_timeout: Annotated[
        str, typer.Option("--idle-timeout", help="Time without use after which it ends: 30m, 8h, ...; 0: never.")
    ] = "30m",
    dashboard: Annotated[
        bool, typer.Option("--dashboard/--no-dashboard", help="Start Ray's dashboard, which jobs and metrics need.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Start a Ray on this machine that stays, for all commands of this user until `llamafarm down`."""
    from llamafarm_ray.clusters import up as rays

    idle_timeout_s = 0.0 if idle_timeout.strip() == "0" else duration(idle_timeout).total_seconds()
    with waiting("Starting Ray on this machine", quiet=as_json):
        ray, is_new = rays.up(idle_timeout_s=idle_timeout_s, with_dashboard=dashboard)
    if as_json:
        print_json({"is_new": is_new, **_public(ray)})
        return
    say("Ray runs, and commands use it until `llamafarm down`." if is_new else "Ray runs already, as it was started.")
    _show(ray)


def down(as_json: Json = False) -> None:
    """End the Ray that `llamafarm up` started, and all that runs on it."""
    from llamafarm_ray.clusters import up as rays

    with waiting("Ending Ray", quiet=as_json):
        ended = rays.down()
    if as_json:
        print_json({"ended": ended is not None})
        return
    say(f"The Ray at {ended.address} has ended." if ended else "No Ray of `llamafarm up` runs on this machine.")


@app.command()
def status(as_json: Json = False) -> None:
    """Show the Ray that commands use: that of `llamafarm up`, or none."""
    from llamafarm_ray.clusters.standing import find

    found = find()
    if as_json:
        print_json({"running": found is not None, **(_public(found) if found else {})})
    elif found is None:
        say("No Ray of `llamafarm up` runs on this machine: each command starts its own.")
    else:
        _show(found)


@app.command()
def check(address: Address = None, as_json: Json = False) -> None:
    """Look for dangers: jobs without a token, readable tokens, known CVEs, nodes that differ, clocks, full disks.

    Without an address it is about the Ray of `llamafarm up`; where that does not run, about this machine. Exit status 1
    says that there is a danger.
    """
    from llamafarm_ray.clusters.check import Level
    from llamafarm_ray.workflows.clusters.check_cluster import check_cluster

    with waiting("Looking at the cluster", quiet=as_json):
        found, what = check_cluster(address)
    if as_json:
        print_json({"checked": what, "findings": [dataclasses.asdict(one) for one in found]})
    else:
        styles = {Level.DANGER: "bold red", Level.WARNING: "yellow", Level.OK: "green"}
        rows = [(Text(one.level, style=styles[one.level]), one.subject, f"{one.what}. {one.hint}") for one in found]
        table(f"Checked: {what}", ("", "check", "found"), rows, whole=("check",))
    if any(one.level is Level.DANGER for one in found):
        raise typer.Exit(1)


@app.command()
def cost(
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="Days that are added up, today included.")] = 30,
    prices: Annotated[
        Path | None,
        typer.Option("--prices", metavar="FILE", help="Your own prices (YAML or JSON), as for `models estimate`."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what each namespace and model used: hours of devices, tokens, storage; and the price where one is known."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.training.estimate import read_tables
    from llamafarm_ray.workflows.accounting.cost import cost_dict, report_cost
    from llamafarm_ray.workflows.accounting.usage import last_days

    found = report_cost(open_registry(home), since=last_days(days), tables=read_tables(prices))
    if as_json:
        print_json(cost_dict(found))
    elif found.rows:
        _show_cost(found)
    else:
        say(f"Nothing was used since {found.since}.")


def _show_cost(found: CostReport) -> None:
    """Print a row for each model, and the sum of the prices that are known."""
    rows = [
        (
            row.namespace,
            f"{row.name} (idle)" if row.hours("idle") else row.name,
            *(_hours(row.hours(*works)) for works in _HOURS.values()),
            f"{row.num_tokens:,}" if row.num_tokens else "",
            size(row.storage_bytes) if row.storage_bytes else "",
            "" if row.cost is None else f"{'>= ' if row.unpriced else ''}{row.cost:,.2f}",
        )
        for row in found.rows
    ]
    columns = ("namespace", "model", *_HOURS, "tokens", "files", "US$")
    table(f"Use since {found.since}, hours of devices", columns, rows, drop_empty=True, whole=("model",))
    unpriced = sorted({name for row in found.rows for name in row.unpriced})
    if found.cost is not None:
        say(f"US$ {found.cost:,.2f} in all. Prices: {found.price_note}.")
    if unpriced:
        say(f"Without a price: {', '.join(unpriced)}. --prices FILE gives them.")


def _hours(hours: float) -> str:
    return f"{hours:,.3f}" if hours else ""


def _public(ray: StandingRay) -> dict[str, object]:
    """Return what may be shown of a Ray: everything but its token."""
    return {
        "address": ray.address,
        "dashboard": ray.dashboard_url or None,
        "pid": ray.pid,
        "started": dt.datetime.fromtimestamp(ray.started, dt.UTC).isoformat(timespec="seconds"),
        "idle_timeout_s": ray.idle_timeout_s or None,
        "ray_version": ray.ray_version,
        "folder": ray.folder,
    }


def _show(ray: StandingRay) -> None:
    from llamafarm_ray.serving.ray_serve.token import token_file

    idle = f"after {dt.timedelta(seconds=ray.idle_timeout_s)} without use" if ray.idle_timeout_s else ""
    facts(
        "Ray on this machine",
        [
            ("address", ray.address),
            ("dashboard", ray.dashboard_url),
            ("its token", f"in {token_file()}" if ray.dashboard_url else ""),
            ("keeper", f"process {ray.pid}, since {local_time(dt.datetime.fromtimestamp(ray.started, dt.UTC))}"),
            ("control state", "in memory: it ends with this Ray"),
            ("ends", idle or "with `llamafarm down`"),
        ],
    )
    if not ray.dashboard_url:
        console.print("It has no dashboard: jobs and metrics need one.", style="dim")
