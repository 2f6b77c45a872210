"""``llamafarm models leaderboard``."""

from __future__ import annotations

from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import number, print_json, say, table

__all__ = ["command"]


def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Models or versions; none: all.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="accuracy, closed_book.accuracy, ...; else the first of each.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Rank registered versions by their evaluation results, equals with equals alone."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.versions.leaderboard import make_leaderboard

    found = make_leaderboard(open_registry(home), names or [], metric)
    if as_json:
        print_json({"rankings": [ranking.to_dict() for ranking in found.rankings], "notes": found.notes})
        return
    for ranking in found.rankings:
        direction = "higher" if ranking.higher_is_better else "lower"
        rows = [
            (row.ref, row.rank, number(row.value), number(row.baseline), row.verdict, row.num_examples or "")
            for row in ranking.rows
        ]
        title = f"{ranking.benchmark} {ranking.metric} ({direction} is better)"
        table(title, ("version", "rank", "score", "baseline", "difference", "examples"), rows, drop_empty=True)
    for note in found.notes:
        say(note, style="yellow")
    if not found.rankings and not found.notes:
        say("No version has evaluation results. `llamafarm models evaluate --model NAME` records them.")
