"""``llamafarm models simulate``."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import Home, Json, ResultOutput, ServedModel, Url
from llamafarm_ray.cli.terminal import console, print_json, say, stages, table
from llamafarm_ray.types import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamafarm_ray.evaluation.load.plan import Replay, Traffic
    from llamafarm_ray.evaluation.load.result import SimulationResult
    from llamafarm_ray.evaluation.load.search import Probe
    from llamafarm_ray.evaluation.load.targets import Target

__all__ = ["command", "show_simulation"]


LoadTargets = Annotated[
    list[str] | None,
    typer.Option("--slo", help="Find the highest rate that keeps it: p95<800ms, error_rate<1%; may be repeated."),
]


def command(
    model: ServedModel = None,
    url: Url = None,
    rate: Annotated[float, typer.Option("--rate", help="Sessions begun per second, on average.")] = 1.0,
    length: Annotated[str, typer.Option("--duration", help="Duration: 60s, 10m.")] = "60s",
    pattern: Annotated[str, typer.Option("--pattern", help="poisson, constant, bursts or daily.")] = "poisson",
    lengths: Annotated[
        str | None, typer.Option("--lengths", help="Mix as share:words/tokens: 80%:32/64,20%:500/256.")
    ] = None,
    turns: Annotated[str, typer.Option("--turns", help="Requests of a session: 1, or a range such as 1-4.")] = "1",
    think: Annotated[str, typer.Option("--think", help="Mean time between an answer and the next turn.")] = "2s",
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Texts to ask: one a line, or JSONL with prompt.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", help="JSONL of recorded requests with their times, instead.")
    ] = None,
    speed: Annotated[float, typer.Option("--speed", help="Send a replay so many times as fast.")] = 1.0,
    slo: LoadTargets = None,
    max_time: Annotated[str, typer.Option("--max-time", help="Limit of that search.")] = "10m",
    max_rate: Annotated[float, typer.Option("--max-rate", help="Highest rate it tries.")] = 1000.0,
    timeout: Annotated[str, typer.Option("--timeout", help="A request without an answer by then has failed.")] = "60s",
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Ask for streams.")] = True,
    seed: Annotated[int, typer.Option("--seed", help="The same seed sends the same traffic.")] = 0,
    record: Annotated[
        str | None, typer.Option("--record", metavar="REF", help="Add the figures to this version.")
    ] = None,
    output: ResultOutput = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Send production-like traffic to a deployed model and measure its answers."""
    from llamafarm_ray.evaluation.load.plan import Replay, Traffic
    from llamafarm_ray.evaluation.load.search import Limits
    from llamafarm_ray.evaluation.load.targets import parse_targets
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.simulate import endpoint_of, search, simulate
    from llamafarm_ray.workflows.versions.metrics import add_result

    length_s = duration(length).total_seconds()
    plan: Traffic | Replay = _traffic(rate, length_s, pattern, lengths, turns, think, prompts, seed)
    targets = parse_targets(slo) if slo else ()
    _check_targets(targets, is_streamed=stream, is_replay=replay is not None)
    if replay is not None:
        plan = Replay(replay, speed)
    plan.sessions()  # mistakes in files show before anything is sent
    endpoint = endpoint_of(home, url, model, timeout_s=duration(timeout).total_seconds(), is_streamed=stream)
    registry = open_registry(home) if url is None or record else None
    if registry is not None and record:
        registry.resolve(record)
    with stages(quiet=as_json) as progress:
        if targets and isinstance(plan, Traffic):
            limits = Limits(max_rate=max_rate, duration_s=length_s, budget_s=duration(max_time).total_seconds())
            on_probe = None if as_json else lambda probe: progress.warn(_told(probe))
            result = search(endpoint, plan, targets, limits, registry=registry, on_progress=progress, on_probe=on_probe)
        else:
            result = simulate(endpoint, plan, registry=registry, on_progress=progress)
    _print_and_write(result, output, as_json=as_json)
    if registry is not None and record and result.summary is not None:
        add_result(registry, record, result.evaluation, reason="simulate")


def _print_and_write(result: SimulationResult, output: Path | None, *, as_json: bool) -> None:
    from llamafarm_ray.workflows.versions.metrics import write_json

    if as_json:
        print_json(result.to_dict())
    else:
        show_simulation(result)
    if output is not None:
        write_json(result.to_dict(), output)


def show_simulation(result: SimulationResult) -> None:
    """Print the figures as tables."""
    summary = result.summary
    if result.capacity is not None:
        found = result.capacity
        if found.highest_rate is None:
            say(f"No rate kept {', '.join(result.plan['targets'])} ({found.ended_because}).")
        else:
            above = f", {found.failed_at:.3g}/s does not" if found.failed_at else ""
            say(f"{found.highest_rate:.3g}/s keeps {', '.join(result.plan['targets'])}{above} ({found.ended_because}).")
    if summary is None:
        return
    figures = summary.to_dict()
    columns = ("mean", "p50", "p90", "p95", "p99", "max")
    rows = [
        (name, *(_time(figures[key][column]) for column in columns))
        for name, key in (("latency", "latency_s"), ("first token", "time_to_first_token_s"))
        if key in figures
    ]
    title = f"{result.model_id}: {summary.num_requests} requests, counted from their scheduled time"
    table(title, ("", *columns), rows)
    facts = [
        ("answers per second", f"{figures['answers_per_second']:.3g}"),
        ("tokens per second", f"{figures['tokens_per_second']:.3g}"),
        ("tasks completed", f"{summary.task_completion_rate:.1%} of {summary.num_sessions}"),
        ("requests failed", f"{summary.error_rate:.1%}"),
        *((f"  {kind}", str(count)) for kind, count in summary.failures.items()),
    ]
    if result.satisfaction is not None:
        rated = result.satisfaction
        facts.append(("user satisfaction", f"{rated.mean:.1f} of 5 ({rated.num_ratings} ratings)"))
    table("", ("measure", "value"), facts)
    if summary.is_client_late:
        console.print(
            f"This client was late itself: by {_time(summary.client_lag_s)} for one request in a hundred, "
            "which the latencies include. Run it on a machine with more free CPU, or lower the rate.",
            markup=False,
            style="yellow",
        )


def _check_targets(targets: Sequence[Target], *, is_streamed: bool, is_replay: bool) -> None:
    from llamafarm_ray.errors import InputError

    if not is_streamed and any(target.measure == "ttft" for target in targets):
        raise InputError("The time to the first token is known of streams alone.", hint="Leave --no-stream out.")
    if is_replay and targets:
        raise InputError("A replay has its own rate.", hint="Give --slo without --replay.")


def _traffic(
    rate: float,
    length_s: float,
    pattern: str,
    lengths: str | None,
    turns: str,
    think: str,
    prompts: Path | None,
    seed: int,
) -> Traffic:
    from llamafarm_ray.errors import InputError, did_you_mean
    from llamafarm_ray.evaluation.load.arrivals import PATTERNS
    from llamafarm_ray.evaluation.load.plan import Traffic
    from llamafarm_ray.evaluation.load.traffic import DEFAULT_LENGTHS, SessionShape, parse_lengths

    found = re.fullmatch(r"([1-9]\d?)(?:-([1-9]\d?))?", turns.strip())
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise InputError(f"{turns!r} is no number of turns.", hint="Write 1, or a range such as 1-4.")
    chosen = next((one for one in PATTERNS if one == pattern), None)
    if chosen is None:
        raise InputError(f"{pattern!r} is no traffic pattern.", hint=did_you_mean(pattern, PATTERNS))
    think_s: dt.timedelta = duration(think)
    shape = SessionShape(int(found[1]), int(found[2] or found[1]), think_s.total_seconds())
    mix = parse_lengths(lengths) if lengths else DEFAULT_LENGTHS
    return Traffic(rate, length_s, chosen, mix, shape, prompts, seed)


def _told(probe: Probe) -> str:
    values = ", ".join(
        f"{name}: {'not reached' if value is None else f'{value:.4g}'}" for name, value in probe.values.items()
    )
    return f"{probe.rate:8.3g}/s  {'holds' if probe.holds else 'fails'}  {values}"


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1000:,.0f} ms"
