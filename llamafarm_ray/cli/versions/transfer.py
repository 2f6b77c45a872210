"""``llamafarm models pull`` and ``push``: files out of the registry and into it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamafarm_ray.cli.options import At, Bump, FilesOutput, Home, Json, NewAlias, Reference, moment
from llamafarm_ray.cli.terminal import errors, print_json, say, size, waiting

__all__ = ["pull", "push"]


def pull(
    reference: Reference,
    output: FilesOutput = None,
    at: At = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Download a version and verify every byte; prints the folder."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.versions.pull import pull as pull_version

    with waiting(f"Pulling {reference}", quiet=as_json):
        pulled = pull_version(open_registry(home), reference, output, at=moment(at) if at else None)
    if as_json:
        digest = pulled.record.registered.manifest
        print_json({"version": pulled.record.ref, "folder": str(pulled.folder), "digest": digest})
        return
    say(str(pulled.folder))


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of the adapter or model.")],
    target: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="Its name; else the next version of it.")],
    bump: Bump = None,
    alias: NewAlias = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Publish a folder as a version; `register` does the same with more to say about it."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.types import ModelRef
    from llamafarm_ray.workflows.versions.register import Registration, register

    ref = ModelRef.parse(target)
    if ref.alias:
        raise InputError(f"{target} names an alias.", hint=f"Push to {ref.name} and say --alias {ref.alias}.")
    version = str(ref.version) if ref.version else None
    notes: list[str] = []
    with waiting(f"Pushing {target}", quiet=as_json):
        asked = Registration(folder, name=ref.name, version=version, bump=bump, alias=alias)
        record = register(open_registry(home), asked, on_note=notes.append)
    if as_json:
        print_json({"ref": record.ref, **record.registered.model_dump(mode="json"), "notes": notes})
        return
    for note in notes:
        errors.line(note)
    say(f"Pushed {record.ref} ({size(record.registered.size_bytes)}, {record.registered.manifest[7:19]}).")
