"""``llamafarm datasets validate``."""

from __future__ import annotations

from typing import Annotated

import typer

from llamafarm_ray.cli.datasets.options import Reference
from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import print_json, say, table

__all__ = ["command"]

_BAD = 2


def command(
    reference: Reference,
    max_bad: Annotated[int, typer.Option("--max-bad", min=1, max=100000, help="Bad rows to show; all count.")] = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check every row as `train` reads it. Exit status 2 if one is bad."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.datasets.registered import locate
    from llamafarm_ray.workflows.datasets.validate import validate

    found = validate(locate(open_registry(home), reference), max_bad=max_bad)
    if as_json:
        print_json(found.to_dict())
    else:
        rows = [(split, kind, count) for split, kinds in found.rows.items() for kind, count in kinds.items()]
        if rows:
            table(f"Good rows of {reference}", ("split", "kind", "rows"), rows)
        if found.bad:
            table("Bad rows", ("file", "place", "reason"), [(one.file, one.place, one.reason) for one in found.bad])
        if found.num_bad > len(found.bad):
            say(f"{found.num_bad - len(found.bad)} more are bad.", style="yellow")
        if found.num_duplicates:
            say(f"{found.num_duplicates} rows repeat another one.", style="yellow")
        for file, fields in found.unused.items():
            told = ", ".join(f"{name} ({count} records)" for name, count in fields.items())
            say(f"{file}: training does not use {told}.", style="yellow")
        if found.num_leaked:
            say(f"{found.num_leaked} validation rows are trained on too.", style="yellow")
        if not found.num_bad and found.num_rows:
            say(f"All {found.num_rows} rows can be used.")
        elif not found.num_bad:
            say(f"{reference} has no rows.", style="yellow")
    if found.num_bad or not found.num_rows:
        raise typer.Exit(_BAD)
