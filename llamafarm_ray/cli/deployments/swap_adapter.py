"""``llamafarm models swap-adapter``."""

from __future__ import annotations

from typing import Annotated

import typer

from llamafarm_ray.cli.options import ControlAddress, Home, Json
from llamafarm_ray.cli.terminal import console, print_json

__all__ = ["command"]


def command(
    adapter: Annotated[
        str, typer.Option("--adapter", help="Version, such as support-bot:1.2.0; a name is its highest.")
    ],
    target: Annotated[str, typer.Option("--target", help="Alias that shall point at it.")] = "production",
    home: Home = None,
    address: ControlAddress = None,
    as_json: Json = False,
) -> None:
    """Move an alias to another version under traffic: load everywhere first, then switch."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.clusters.cluster import connect
    from llamafarm_ray.workflows.deployments.deployed import deployments_for, swap_adapter

    registry = open_registry(home)
    with connect(address or deployments_for(registry, adapter)[0].ray_address):
        record = swap_adapter(registry, adapter, target)
    if as_json:
        print_json(
            {
                "alias": f"{record.registered.model}@{target}",
                "version": record.ref,
                "digest": record.registered.manifest,
            }
        )
        return
    console.print(f"{record.registered.model}@{target} is now {record.ref}, confirmed by the endpoint.", markup=False)
