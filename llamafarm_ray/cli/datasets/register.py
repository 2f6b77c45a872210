"""``llamafarm datasets register``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Json, Reason
from llamafarm_ray.cli.terminal import print_json, say

__all__ = ["command"]


def command(
    path: Annotated[
        Path,
        typer.Argument(help="JSONL of questions, description of a custom evaluation, or folder of a benchmark's data."),
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name of the set; by default the file's.")] = None,
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Store an evaluation set in the home, for `models evaluate` to name."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.evaluation.register_set import register_set

    stored = register_set(open_registry(home), path, name=name, reason=reason)
    if as_json:
        print_json(stored.to_dict())
        return
    say(f"Registered {stored.name}@{stored.digest[7:19]} with {stored.num_validation} rows.")
