"""``llamafarm models register``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import console, print_json

__all__ = ["command"]


def command(
    model: Annotated[Path, typer.Option("--model", help="Folder of the adapter or model.")],
    name: Annotated[str | None, typer.Option("--name", help="The model's name; else the folder's.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Such as 1.2.0; else the next one.")] = None,
    base_model: Annotated[str | None, typer.Option("--base-model", help="What it was trained on.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="How it was trained.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="What it was trained on, by name.")] = None,
    performance_metrics: Annotated[
        Path | None, typer.Option("--performance-metrics", help="JSON file that `evaluate` wrote.")
    ] = None,
    domain: Annotated[str | None, typer.Option("--domain", help="Field it is for, to list by.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="What it is for.")] = None,
    license_: Annotated[str | None, typer.Option("--license", help="Its licence, as an SPDX id.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Word to find it by; may be given again.")] = None,
    alias: Annotated[str | None, typer.Option("--alias", help="Alias that shall point at it.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Give a trained folder a name and a version that never changes."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.register import Registration, register

    record = register(
        open_registry(home),
        Registration(
            folder=model,
            name=name,
            version=version,
            base_model=base_model,
            method=method,
            dataset=dataset,
            performance_metrics=performance_metrics,
            domain=domain,
            description=description,
            license=license_,
            tags=tuple(tag or ()),
            alias=alias,
        ),
    )
    if as_json:
        print_json(record.registered.model_dump(mode="json"))
        return
    console.print(
        f"Registered {record.ref} ({record.registered.kind}, {record.registered.manifest[7:19]}).", markup=False
    )
