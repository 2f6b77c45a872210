"""``llamafarm datasets merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamafarm_ray.cli.datasets.options import Format
from llamafarm_ray.cli.options import Home, Json, Overwrite
from llamafarm_ray.cli.terminal import print_json, say

__all__ = ["command"]


def command(
    references: Annotated[list[str], typer.Argument(metavar="DATASET...", help="Paths, or registered datasets.")],
    output: Annotated[Path, typer.Option("--output", help="File or folder to write.")],
    format_: Format = None,
    overwrite: Overwrite = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write several datasets as one, without duplicates, and register it with all their documents."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.datasets.convert import merge
    from llamafarm_ray.workflows.datasets.registered import locate

    registry = open_registry(home)
    paths = [locate(registry, reference) for reference in references]
    written = merge(registry, paths, output, row_format=format_, overwrite=overwrite)
    if as_json:
        print_json(written.to_dict())
        return
    say(
        f"Wrote {written.num_train} rows to train on and {written.num_validation} held out, from "
        f"{written.num_documents} documents, to {written.path}; rows left out as duplicates: {written.num_duplicates}."
    )
