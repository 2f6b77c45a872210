"""``llamafarm models rollout``: give a new version some of an alias's requests, and see how it does."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.deployments.rollout_view import rollout_view
from llamafarm_ray.cli.options import (
    Address,
    ConfigFile,
    DryRun,
    Env,
    Home,
    Json,
    Overrides,
    Reason,
    Reference,
    configuration,
)
from llamafarm_ray.cli.terminal import (
    ago,
    console,
    drawn_facts,
    drawn_table,
    local_time,
    print_json,
    redrawn,
    say,
    table,
)
from llamafarm_ray.types import duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from llamafarm_ray.registry import RegistryApi, RolloutRecord
    from llamafarm_ray.workflows.deployments.rollout_progress import Heard

__all__ = ["app", "rollouts_table", "show_rollouts"]

app = typer.Typer(help="Give a new version some of an alias's requests, step by step.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]

_LOOK_S = 1.0
"""Seconds between two looks of ``--watch``."""


@app.command("start")
def start(
    reference: Reference,
    env: Env = "production",
    kind: Annotated[str | None, typer.Option("--kind", help="canary, blue_green, ab or shadow.")] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", metavar="PERCENTS", help="canary: shares of the requests, such as 5,25,50.")
    ] = None,
    percent: Annotated[float | None, typer.Option("--percent", help="ab, shadow: share of the requests.")] = None,
    dwell: Annotated[
        str | None, typer.Option("--dwell", metavar="TIME", help="Shortest time of each step, such as 10m.")
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="ab: feedback, error_rate or latency.")] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    reason: Reason = "",
    home: Home = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Split an alias's requests between the version it points at and this one.

    Options that are left out come from deployment.rollout of the configuration: the steps and above all the guards,
    which roll it back.
    """
    flags = {
        "deployment.strategy": kind,
        "deployment.rollout.kind": kind,
        "deployment.rollout.steps": _percents(steps) if steps is not None else None,
        "deployment.rollout.percent": percent,
        "deployment.rollout.dwell_s": duration(dwell).total_seconds() if dwell is not None else None,
        "deployment.rollout.metric": metric,
    }
    config = configuration(config_file, overrides, flags, home=home)
    if dry_run:
        from llamafarm_ray.config import resolved

        print_json(resolved(config)["deployment"]["rollout"])
        return
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.serving.rollouts.start import start_rollout

    record = start_rollout(open_registry(config.home), reference, env, config.deployment.rollout, reason=reason)
    share = f"{record.percent:g} % of the requests to {record.target}"
    verb = "gets copies of" if record.plan.kind == "shadow" else "gets"
    _show(record, f"{record.model}:{record.candidate} {verb} {share} now.", as_json=as_json)


@app.command("status")
def status(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The model's name; else all models.")] = None,
    env: Annotated[str | None, typer.Option("--env", help="Only the rollouts to this alias.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing them until all are over.")] = False,
    home: Home = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Show the rollouts under way and how they go; with a name the newest of each alias and its history."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.rollout_progress import Heard, controllers, progress_dict
    from llamafarm_ray.workflows.deployments.rollouts import rollouts

    if watch and as_json:
        raise InputError("Both --watch and --json were given.", hint="Leave one of them out.")
    registry = open_registry(home)
    found = rollouts(registry, name, alias=env, every=every)
    is_any_under_way = any(record.status.is_under_way for record in found)
    with controllers(registry, address) if is_any_under_way else contextlib.nullcontext(Heard) as ask:
        if watch and found:
            redrawn(_views(registry, found, ask))
            return
        heard = ask()
    if as_json:
        now = dt.datetime.now(dt.UTC)
        print_json([progress_dict(record, heard, now) for record in found])
        return
    if not found:
        say("No rollout is under way.")
        return
    detailed = [record for record in found if record.status.is_under_way]
    if len(found) == 1:
        detailed = found
    else:
        show_rollouts(found, brief=bool(detailed))
    if detailed:
        console.print(_view(detailed, heard))
    if name is not None and len(found) == 1:
        _history(found[0])


@app.command("pause")
def pause(name: Name, env: Env = "production", reason: Reason = "", home: Home = None, as_json: Json = False) -> None:
    """Keep the split as it is; guards go on guarding."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.rollouts import pause_rollout

    record = pause_rollout(open_registry(home), name, env, reason=reason)
    _show(
        record, f"The rollout of {record.candidate} to {record.target} stays at {record.percent:g} %.", as_json=as_json
    )


@app.command("resume")
def resume(name: Name, env: Env = "production", reason: Reason = "", home: Home = None, as_json: Json = False) -> None:
    """Go on with a paused rollout."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.rollouts import resume_rollout

    record = resume_rollout(open_registry(home), name, env, reason=reason)
    _show(record, f"The rollout of {record.candidate} to {record.target} goes on.", as_json=as_json)


@app.command("promote")
def promote(name: Name, env: Env = "production", reason: Reason = "", home: Home = None, as_json: Json = False) -> None:
    """Point the alias at the new version now; that ends the rollout."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.rollouts import promote_rollout

    record = promote_rollout(open_registry(home), name, env, reason=reason)
    _show(record, f"{record.target} is now {record.model}:{record.candidate}.", as_json=as_json)


@app.command("abort")
def abort(name: Name, env: Env = "production", reason: Reason = "", home: Home = None, as_json: Json = False) -> None:
    """Send all requests to the version that the alias points at; that ends the rollout."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.rollouts import abort_rollout

    record = abort_rollout(open_registry(home), name, env, reason=reason)
    _show(record, f"{record.target} stays {record.model}:{record.baseline}.", as_json=as_json)


def show_rollouts(found: Sequence[RolloutRecord], *, brief: bool = False) -> None:
    """Rollouts on standard output, see :func:`rollouts_table`."""
    console.print(rollouts_table(found, brief=brief))


_COLUMNS = ("alias", "rollout", "from", "to", "status", "step", "share", "since", "by", "why")
_WHOLE = ("rollout", "from", "to", "status", "step", "share")


def _views(registry: RegistryApi, shown: Sequence[RolloutRecord], ask: Callable[[], Heard]) -> Iterator[RenderableType]:
    """Yield the rollouts' progress until all are over: each second, or at each change without a terminal."""
    before: Sequence[RolloutRecord] = ()
    while True:
        if console.is_interactive or shown != before:
            yield _view(shown, ask())
        if not any(record.status.is_under_way for record in shown):
            return
        time.sleep(_LOOK_S)
        state, before = registry.refresh(), shown
        shown = [state.rollout(record.model, record.alias, record.number) for record in shown]


def _view(shown: Sequence[RolloutRecord], heard: Heard) -> RenderableType:
    """These rollouts, and why no more is known of them."""
    from rich.console import Group

    now = dt.datetime.now(dt.UTC)
    views: list[RenderableType] = [rollout_view(record, heard.progress.get(record.id), now) for record in shown]
    if missing := heard.missing(shown):
        views.append(drawn_facts("This is all that the registry knows.", [("more", missing)]))
    return Group(*views)


def rollouts_table(found: Sequence[RolloutRecord], *, brief: bool = False) -> Table:
    """Rollouts, a row each; ``brief``: without who changed them last and why."""
    rows = [
        (
            record.target,
            f"{record.number} {record.plan.kind.replace('_', '-')}",
            record.baseline,
            record.candidate,
            record.status.words,
            f"{record.step + 1} of {len(record.steps)}",
            f"{record.percent:g} %",
            ago(record.changes[-1].time, dt.datetime.now(dt.UTC)),
            record.changes[-1].principal,
            record.changes[-1].reason,
        )
        for record in found
    ]
    num_columns = len(_COLUMNS) - 2 if brief else len(_COLUMNS)
    return drawn_table("Rollouts", _COLUMNS[:num_columns], rows, whole=_WHOLE)


def _history(record: RolloutRecord) -> None:
    rows = [
        (
            local_time(change.time),
            change.status.words,
            f"{change.step + 1} ({record.steps[change.step].percent:g} %)",
            change.principal,
            change.reason,
        )
        for change in record.changes
    ]
    table(f"History of {record.id}", ("when", "status", "step", "by", "why"), rows, drop_empty=True)


def _percents(text: str) -> list[float]:
    from llamafarm_ray.errors import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{text[:120]!r} is no list of percents.", hint="Write it like 5,25,50.") from None


def _show(record: RolloutRecord, text: str, *, as_json: bool) -> None:
    if as_json:
        from llamafarm_ray.workflows.deployments.rollouts import rollout_dict

        print_json(rollout_dict(record))
        return
    say(text)
