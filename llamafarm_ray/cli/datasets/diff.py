"""``llamafarm datasets diff``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from llamafarm_ray.cli.datasets.options import Reference
from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import print_json, say, table

__all__ = ["command"]

_MAX_CHARS = 300


def command(
    before: Reference,
    after: Reference,
    limit: Annotated[int, typer.Option("--limit", min=0, max=10000, help="Rows of either side to show.")] = 5,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Compare two datasets: rows that only one has, and documents that changed."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.datasets.diff import diff
    from llamafarm_ray.workflows.datasets.registered import locate

    registry = open_registry(home)
    found = diff(locate(registry, before), locate(registry, after), limit=limit)
    if as_json:
        print_json(found.to_dict())
        return
    if found.is_same and not found.documents:
        say(f"Both hold the same {found.num_common} rows.")
        return
    say(
        f"{found.num_common} rows are in both, {found.num_removed} only in {before}, {found.num_added} only in "
        f"{after}; {found.num_moved} changed between training and validation."
    )
    if found.documents:
        rows = [(one.path, one.change, one.rows_before, one.rows_after) for one in found.documents]
        table("Documents", ("path", "change", "rows before", "rows after"), rows)
    shown = [("-", _shown(record)) for record in found.removed] + [("+", _shown(record)) for record in found.added]
    if shown:
        table("Rows", ("", "row"), shown)


def _shown(record: object) -> str:
    text = json.dumps(record, ensure_ascii=False)
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]} ..."
