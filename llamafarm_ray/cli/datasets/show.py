"""``llamafarm datasets show``."""

from __future__ import annotations

from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import facts, print_json, say, table

__all__ = ["command"]

_MAX_DOCUMENTS = 40


def command(
    reference: Annotated[str, typer.Argument(metavar="DATASET", help="NAME, or NAME@DIGEST for an earlier version.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show a registered dataset: its versions, documents, and the models trained on it."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.datasets.registered import show_dataset

    versions = show_dataset(open_registry(home), reference)
    newest = versions[0]
    if as_json:
        print_json({**newest.to_dict(), "versions": [one.digest for one in versions]})
        return
    pairs = [
        ("digest", newest.digest),
        ("rows", f"{newest.num_train} to train on, {newest.num_validation} held out"),
        ("kind", "evaluation set, stored in the home" if newest.manifest else ""),
        ("location", newest.location),
        ("trained on it", ", ".join(newest.trained) or "no registered version"),
        ("evaluated on it", ", ".join(newest.evaluated)),
        ("earlier versions", ", ".join(one.digest[7:19] for one in versions[1:])),
    ]
    facts(newest.name, [pair for pair in pairs if pair[1]])
    rows = [(one["path"], one["num_examples"], str(one["digest"])[7:19]) for one in newest.documents[:_MAX_DOCUMENTS]]
    if rows:
        table("Documents", ("path", "examples", "digest"), rows)
    if len(newest.documents) > _MAX_DOCUMENTS:
        say(f"{len(newest.documents) - _MAX_DOCUMENTS} more are in --json.", style="dim")
