"""``llamafarm models list``."""

from __future__ import annotations

from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import console, print_json, table

__all__ = ["command"]


def command(
    type_: Annotated[str | None, typer.Option("--type", help="adapters, bases, merged, ...")] = None,
    filter_: Annotated[
        list[str] | None, typer.Option("--filter", metavar="FIELD=VALUE", help="Such as domain=medical.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the registered versions."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.list_models import list_versions

    rows = list_versions(open_registry(home), kind=type_, filters=filter_ or [])
    if as_json:
        print_json(
            [
                {**row.record.registered.model_dump(mode="json"), "aliases": row.aliases, "time": row.record.time}
                for row in rows
            ]
        )
        return
    if not rows:
        console.print("No version matches. `llamafarm models register` adds one.")
        return
    table(
        "Models",
        ("version", "aliases", "kind", "method", "base model", "dataset", "registered"),
        [
            (
                row.record.ref,
                ", ".join(row.aliases),
                row.record.registered.kind,
                row.record.registered.method,
                row.record.registered.base_model,
                row.record.registered.dataset,
                f"{row.record.time:%Y-%m-%d %H:%M}",
            )
            for row in rows
        ],
    )
