"""``llamafarm models validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamafarm_ray.cli.options import Json, Overrides, configuration
from llamafarm_ray.cli.terminal import console, print_json

__all__ = ["command"]


def command(
    path: Annotated[Path | None, typer.Argument(help="The file; --config means the same.")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", "-c", help="JSON or YAML file.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Check a configuration: every mistake at once, each with its key."""
    from llamafarm_ray.config import resolved
    from llamafarm_ray.errors import InputError

    chosen = path or config_file
    if chosen is None:
        raise InputError("No file was given.", hint="llamafarm models validate config.json")
    config = configuration(chosen, overrides)
    if as_json:
        print_json({"valid": True, "config": resolved(config)})
        return
    console.print(f"{chosen} is valid.", style="green", markup=False)
