"""The options that verbs share, and the configuration they add up to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llamafarm_ray.config import Config

__all__ = ["Address", "ConfigFile", "DryRun", "Home", "Json", "Overrides", "configuration"]

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="JSON or YAML file that describes the line.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of it; may be given again.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and do nothing.")]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster, host:port or auto; else $RAY_ADDRESS, else this machine."),
]
Home = Annotated[
    str | None, typer.Option("--home", help="Where everything that lasts is; else $LLAMAFARM_HOME, else ~/.llamafarm.")
]


def configuration(
    path: Path | None,
    overrides: list[str] | None,
    flags: Mapping[str, object] | None = None,
    *,
    home: str | None = None,
    address: str | None = None,
) -> Config:
    """Defaults, then the file, then ``--set``, then a verb's own flags (those that were given).

    Args:
        path: the file.
        overrides: the texts given with ``--set``.
        flags: dotted keys and the values that flags gave them; ``None`` is a flag that was not given.
        home: ``--home``.
        address: ``--address``.

    Raises:
        ConfigError: there are mistakes, all of them listed.
    """
    from llamafarm_ray.config import load_config  # (not needed to show help)

    given = {**(flags or {}), "home": home, "cluster.address": address}
    written = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    return load_config(path, [*(overrides or []), *written])
