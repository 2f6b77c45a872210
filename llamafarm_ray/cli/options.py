"""The options that verbs share, the configuration they add up to, and how times are written."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.terminal import print_json
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import DURATION, duration

if TYPE_CHECKING:
    from llamafarm_ray.config import Config

__all__ = [
    "AdapterBase",
    "Address",
    "At",
    "BaseModelReference",
    "Bump",
    "ConfigFile",
    "ControlAddress",
    "DatasetFolder",
    "DryRun",
    "Env",
    "FilesOutput",
    "Home",
    "Json",
    "ModelName",
    "Names",
    "NewAlias",
    "NoWait",
    "Offline",
    "Output",
    "Overrides",
    "Overwrite",
    "Reason",
    "Reference",
    "RegisterAs",
    "RegisterOrName",
    "RegisterResult",
    "ResultOutput",
    "ServedModel",
    "Url",
    "configuration",
    "expiry",
    "moment",
    "show_resolved",
    "stay_offline",
]

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="JSON or YAML file that describes the line.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of it; may be given again.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and do nothing.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster: http://host:8265 to run there as a job, host:port or auto on one of its machines; "
        "local for a Ray of its own; else $RAY_ADDRESS, else that of `llamafarm up`, else its own.",
    ),
]
ControlAddress = Annotated[
    str | None,
    typer.Option(
        "--address", help="Ray cluster: host:port or auto, on one of its machines; else the one on the home's record."
    ),
]
NoWait = Annotated[
    bool, typer.Option("--no-wait", "--detach", help="As a job: print its name and leave once it is submitted.")
]
Home = Annotated[
    str | None, typer.Option("--home", help="Home, a folder or bucket; else $LLAMAFARM_HOME, else ~/.llamafarm.")
]
Reference = Annotated[str, typer.Argument(metavar="REF", help="name, name:1.2.0 or name@production.")]
BaseModelReference = Annotated[
    str | None,
    typer.Option("--base-model", help="Folder, registered model, hub id, or any source that `download` takes."),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Download no model: use only what is on this machine (HF_HUB_OFFLINE=1).")
]
DatasetFolder = Annotated[str | None, typer.Option("--dataset", help="Dataset: a folder or file.")]
Output = Annotated[Path, typer.Option("--output", help="Folder to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Bump = Annotated[str | None, typer.Option("--bump", help="The part the next version raises: major, minor or patch.")]
NewAlias = Annotated[str | None, typer.Option("--alias", help="Alias that shall point at it.")]
Env = Annotated[str, typer.Option("--env", help="The alias: production, staging, ...")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.")]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="As it was then: 2026-11-17T14:00 (local time), or 2h, 3d, 30m ago."),
]
RegisterAs = Annotated[
    str | None, typer.Option("--register", metavar="NAME", help="Register it under that name as well.")
]
RegisterOrName = Annotated[
    str | None, typer.Option("--register", "--name", metavar="NAME", help="Register it under that name as well.")
]
RegisterResult = Annotated[
    bool, typer.Option("--register", help="Register the result under the config's name; a job always does.")
]
Url = Annotated[str | None, typer.Option("--url", help="OpenAI-compatible root; else the recorded deployment.")]
ServedModel = Annotated[str | None, typer.Option("--model", help="Name, name:version or name@alias; else the base.")]
FilesOutput = Annotated[
    Path | None, typer.Option("--output", help="Folder to write; else a read-only one in this machine's cache.")
]
ResultOutput = Annotated[Path | None, typer.Option("--output", help="JSON file to write the results to.")]
AdapterBase = Annotated[
    str | None, typer.Option("--base-model", help="An adapter's base; else the one its record names.")
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Models, versions or aliases; none: all.")]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


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


def show_resolved(config: Config) -> None:
    """Print the resolved configuration: ``--dry-run``."""
    from llamafarm_ray.config import resolved

    print_json(resolved(config))


def stay_offline(is_asked: bool) -> None:
    """Do what ``--offline`` asks for, in this process and those that it starts: the variable is Hugging Face's."""
    if is_asked:
        os.environ["HF_HUB_OFFLINE"] = "1"


def moment(text: str) -> dt.datetime:
    """Read a time that has passed: ISO 8601, in local time where it names no zone, or ``2h``: two hours ago.

    Raises:
        InputError: the text has another form, or names a time that has not come yet.
    """
    now = dt.datetime.now(dt.UTC)
    found = (
        now - duration(text) if re.fullmatch(DURATION, text.strip()) else _iso(text, "2h, 3d or 30m for so long ago")
    )
    if found > now:
        raise InputError(
            f"{text!r} has not come yet: it is {found.astimezone():%Y-%m-%d %H:%M %Z}.",
            hint="Times without a zone are local; name one with Z or +02:00.",
        )
    return found


def expiry(text: str) -> dt.datetime:
    """Read a time to come: ISO 8601, in local time where it names no zone, or ``90d``: in ninety days.

    Raises:
        InputError: the text has another form.
    """
    now = dt.datetime.now(dt.UTC)
    return (
        now + duration(text) if re.fullmatch(DURATION, text.strip()) else _iso(text, "90d or 2w for so long from now")
    )


def _iso(text: str, otherwise: str) -> dt.datetime:
    try:
        found = dt.datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.astimezone()).astimezone(dt.UTC)  # without a zone: local time
    except (ValueError, OverflowError):
        raise InputError(
            f"{text[:120]!r} is no time.",
            hint=f"Write it like 2026-11-17 or 2026-11-17T14:00 (local time; add Z or +02:00), or {otherwise}.",
        ) from None
