"""``llamafarm models health``."""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import ConfigFile, Home, Json, Names, Overrides, configuration
from llamafarm_ray.cli.terminal import errors, local_time, print_json, say, table

if TYPE_CHECKING:
    from llamafarm_ray.serving.health.perplexity import QuestionPerplexity
    from llamafarm_ray.serving.health.signals import Difference
    from llamafarm_ray.serving.health.versions import VersionHealth

__all__ = ["command"]


def command(
    names: Names = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    alert: Annotated[
        bool, typer.Option("--alert", help="Tell of new alarms, by the configuration's monitoring.alerting.")
    ] = False,
    rollback: Annotated[
        str | None,
        typer.Option("--rollback", metavar="ALIAS", help="Roll this alias back where its version's answers got worse."),
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take the requests from now on as the reference of what changed.")
    ] = False,
    every: Annotated[
        float | None, typer.Option("--every", min=1, metavar="SECONDS", help="Look again and again until Ctrl-C.")
    ] = None,
    perplexity: Annotated[
        bool,
        typer.Option("--perplexity", help="Load the base model, and measure its perplexity of sampled questions."),
    ] = False,
    river: Annotated[
        bool, typer.Option("--river", help="Look for changes with river's ADWIN too (extra drift).")
    ] = False,
    reference_requests: Annotated[
        int, typer.Option("--reference-requests", min=100, help="Requests of the reference, at least.")
    ] = 1000,
    reference_hours: Annotated[
        float, typer.Option("--reference-hours", min=0, help="Hours that the reference spans, at least.")
    ] = 24.0,
    window: Annotated[int, typer.Option("--window", min=50, help="Requests of a window, at least.")] = 250,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Compare recent requests and answers of deployed versions with their first ones."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.serving.health.looks import Plan
    from llamafarm_ray.serving.health.versions import health_dict
    from llamafarm_ray.training.monitoring.alerts import Destinations
    from llamafarm_ray.workflows.deployments.health import accept_changes, check_health, roll_back_worse, tell

    settings = configuration(config, overrides, home=home)
    registry = open_registry(settings.home)
    channels = list(Destinations.find(settings.monitoring.alerting).channels(log=False)) if alert else []
    plan = Plan(reference_requests, reference_hours * 3600, window)
    while True:
        found = check_health(registry, names or [], plan=plan, perplexity=settings if perplexity else None, river=river)
        told, notes = tell(registry.home, found, channels) if alert else ([], [])
        done = roll_back_worse(registry, found, rollback) if rollback is not None else []
        done += accept_changes(registry, found) if accept else []
        if as_json:
            print_json({"versions": [health_dict(one) for one in found], "alerts": told, "done": done})
        else:
            _show(found)
        for line in [*notes, *([] if as_json else [*told, *done])]:
            errors.line(line)
        if every is None:
            return
        time.sleep(every)


def _show(found: list[VersionHealth]) -> None:
    """Print a table of the versions, and one of each version's signals."""
    if not found:
        say("No requests are on record. Replicas record them some ten seconds after the first one.")
        return
    rows = [
        (one.ref, ", ".join(one.aliases), one.status, one.health.num_requests, one.health.num_looks) for one in found
    ]
    table("Health", ("version", "aliases", "status", "requests", "windows"), rows, drop_empty=True)
    for one in found:
        if one.health.window is not None:
            alarms = {alarm.difference.signal.name: alarm.difference for alarm in one.health.current}
            signals = [
                _row(alarms.get(shown.signal.name, shown), is_alarm=shown.signal.name in alarms)
                for shown in one.health.latest
            ]
            columns = ("signal", "share of", "reference", "now", "change", "verdict")
            table(f"{one.ref} now", columns, signals, drop_empty=True)
        elif not one.health.is_reference_whole:
            say(f"{one.ref}: {one.health.reference.num_requests:,} requests are too few for a reference yet.")
        scores = [(name, f"{score.value:.4g}", score.num_measured) for name, score in one.scores.items()]
        if scores:
            table(f"{one.ref}: redacted samples", ("metric", "score", "samples"), scores)
        if one.perplexity is not None or one.trouble:
            say(f"{one.ref}: {_perplexity(one.perplexity) if one.perplexity is not None else one.trouble}")
        for change in one.changes or ():
            since = local_time(dt.datetime.fromtimestamp(change.time_s, dt.UTC))
            size = "" if change.matters else ", which is too small to matter"
            shares = f"from {change.before:.1%} to {change.after:.1%}{size}"
            what = change.signal.replace("_", " ")
            say(f"{one.ref}: river sees {what} change {shares}, with the requests of {since}.")
        now = {alarm.difference.signal.name for alarm in one.health.current}
        for alarm in one.health.first:
            since = local_time(dt.datetime.fromtimestamp(alarm.start_s, dt.UTC))
            state = "" if alarm.difference.signal.name in now else ", and is over"
            say(f"{one.ref}: an alarm for {alarm.difference.signal.says} began with the requests of {since}{state}.")


def _perplexity(found: QuestionPerplexity) -> str:
    """Say how surprising questions are for the base model."""
    before, later = ("none" if one is None else f"{one:.3g}" for one in (found.reference, found.later))
    sizes = f"{found.num_reference} sampled questions of the reference and {found.num_later} later ones"
    said = f"the base's perplexity a byte is {before} and {later} of {sizes}"
    if found.superiority is None:
        return f"{said}."
    chance = "" if found.p_value is None else f" (p {found.p_value:.2g})"
    return f"{said}; a later one surprises more in {found.superiority:.0%} of pairs{chance}, 50 % if they are alike."


def _row(difference: Difference, *, is_alarm: bool) -> tuple[object, ...]:
    what = "" if difference.what.startswith("num_") else difference.what
    shares = f"{difference.reference_share:.1%}", f"{difference.share:.1%}"
    verdict = ("worse" if difference.signal.is_quality else "changed") if is_alarm else "alike"
    return difference.signal.says, what, *shares, f"{100 * difference.effect:+.1f} points", verdict
