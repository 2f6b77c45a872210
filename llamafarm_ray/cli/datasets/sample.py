"""``llamafarm datasets sample``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llamafarm_ray.cli.datasets.options import Reference
from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import print_json, table

__all__ = ["command"]

_MAX_CHARS = 600


def command(
    reference: Reference,
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=1000, help="Rows to show.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Another one shows other rows.")] = 0,
    split: Annotated[str | None, typer.Option("--split", help="train or validation only.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show a few rows, the same ones for the same seed."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.datasets.registered import locate
    from llamafarm_ray.workflows.datasets.sample import sample

    rows = sample(locate(open_registry(home), reference), count=count, seed=seed, split=split)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    shown = [
        (row.split, row.document, "\n".join(f"{name}: {_shortened(text)}" for name, text in row.texts)) for row in rows
    ]
    table(f"{len(rows)} rows of {reference}", ("split", "document", "row"), shown, drop_empty=True)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]} ... ({len(text)} characters)"
