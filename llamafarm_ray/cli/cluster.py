"""``llamafarm up``, ``llamafarm down`` and ``llamafarm cluster``."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from llamafarm_ray.cli.options import Address, Json, duration
from llamafarm_ray.cli.terminal import console, facts, local_time, print_json, say, table, waiting

if TYPE_CHECKING:
    from llamafarm_ray.clusters.standing import StandingRay

__all__ = ["app", "down", "up"]

app = typer.Typer(help="Look after the Ray that commands use.", no_args_is_help=True)


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
    from llamafarm_ray.workflows.check_cluster import check_cluster

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
            ("ends", idle or "with `llamafarm down`"),
        ],
    )
    if not ray.dashboard_url:
        console.print("It has no dashboard: jobs and metrics need one.", style="dim")
