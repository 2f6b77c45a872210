"""``llamafarm datasets export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamafarm_ray.cli.datasets.options import Format, Reference
from llamafarm_ray.cli.options import Home, Json, Overwrite
from llamafarm_ray.cli.terminal import print_json, say

__all__ = ["command"]


def command(
    reference: Reference,
    output: Annotated[
        Path, typer.Option("--output", help="File to write (.jsonl, .json, .csv, .parquet, ..., .gz), or a folder.")
    ],
    format_: Format = None,
    overwrite: Overwrite = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a dataset in another format or file type."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.datasets.convert import export
    from llamafarm_ray.workflows.datasets.registered import locate

    written = export(locate(open_registry(home), reference), output, row_format=format_, overwrite=overwrite)
    if as_json:
        print_json(written.to_dict())
    elif written.created:
        say(f"Wrote {written.num_train} rows to train on and {written.num_validation} held out to {written.path}.")
    else:
        say(f"{written.path} holds these rows already.")
