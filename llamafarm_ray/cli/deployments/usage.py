"""``llamafarm models usage`` and ``llamafarm models recommend``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from llamafarm_ray.cli.options import Home, Json, Names
from llamafarm_ray.cli.terminal import ago, print_json, say, size, table

__all__ = ["recommend", "usage"]

_Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="Days that are looked at, today included.")]
_NEVER = "never"


def usage(
    names: Names = None,
    days: _Days = 30,
    by: Annotated[
        Literal["version", "model", "namespace", "key", "route"], typer.Option("--by", help="Subject of a row.")
    ] = "version",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show usage by caller and version: requests, tokens, seconds of devices, last use."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.accounting.usage import last_days, report_usage, usage_dict

    found = report_usage(open_registry(home), names or [], since=last_days(days), by=by)
    if as_json:
        print_json(usage_dict(found))
        return
    if not found.rows:
        say(f"Nothing was used since {found.since}.")
        return
    rows = [
        (
            row.name or "(none)",
            row.used.num_requests,
            row.used.num_failed or "",
            row.used.prompt_tokens,
            row.used.answer_tokens,
            _hours(row.cpu_s),
            _hours(row.gpu_s),
            size(row.storage_bytes) if row.storage_bytes else "",
            ago(row.last) if row.last else _NEVER,
            ", ".join(sorted(filter(None, row.principals))) if by != "key" else "",
        )
        for row in found.rows
    ]
    columns = ("", "requests", "failed", "prompt tokens", "answer tokens", "CPU h", "GPU h", "files", "used", "keys")
    table(f"Usage by {by} since {found.since}", (by, *columns[1:]), rows, drop_empty=True)
    idle = [f"{_hours(found.idle_cpu_s)} CPU hours", f"{_hours(found.idle_gpu_s)} GPU hours"]
    if found.idle_cpu_s + found.idle_gpu_s > 0:
        say(f"Replicas that served nothing on a day: {', '.join(one for one in idle if one[0].isdigit())}.")


def recommend(days: _Days = 7, home: Home = None, as_json: Json = False) -> None:
    """Say what would save devices or memory, how much, and how much it saved where it was done."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.accounting.recommend import recommend_savings

    found = recommend_savings(open_registry(home), days=days)
    if as_json:
        print_json({"recommendations": [one.to_dict() for one in found]})
        return
    for one in found:
        say(f"{one.subject}: {one.reason}")
        say(f"  {one.action}")
        say(f"  predicted: {one.predicted.text}" + (f"; measured: {one.measured.text}" if one.measured else ""))
    if not found:
        say(f"Nothing to save is known from the last {days} days.")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}" if seconds else ""
