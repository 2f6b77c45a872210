"""``llamafarm models register``, and ``import``: the same for a folder that was made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import Bump, Home, Json, NewAlias
from llamafarm_ray.cli.terminal import errors, print_json, say, size, waiting

if TYPE_CHECKING:
    from llamafarm_ray.registry import RegistryApi, VersionRecord
    from llamafarm_ray.workflows.versions.register import Registration

__all__ = ["command"]


def command(
    folder: Annotated[Path | None, typer.Argument(help="Folder of the adapter or model.")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="The same.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The model's name; else the folder's.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Such as 1.2.0; else the next one.")] = None,
    bump: Bump = None,
    base_model: Annotated[str | None, typer.Option("--base-model", help="Its base model.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Training method.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Name of the training dataset.")] = None,
    performance_metrics: Annotated[
        Path | None, typer.Option("--performance-metrics", help="JSON file that `evaluate` wrote.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="The training run that made it.")] = None,
    domain: Annotated[str | None, typer.Option("--domain", help="Field it is for, to list by.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="Purpose.")] = None,
    license_: Annotated[str | None, typer.Option("--license", help="Its licence, as an SPDX id.")] = None,
    usage_restrictions: Annotated[str | None, typer.Option("--usage-restrictions", help="Forbidden uses.")] = None,
    capability: Annotated[
        list[str] | None, typer.Option("--capability", help="Task it is for: chat, ...; may be given again.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Word to find it by; may be given again.")] = None,
    alias: NewAlias = None,
    fix_names: Annotated[
        bool, typer.Option("--fix-names", help="Rename an adapter's tensors where another tool's names don't fit.")
    ] = False,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Calls with the same one are one call, however often made.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Give a trained folder a name and a version that never changes."""
    from llamafarm_ray.workflows.versions.register import Registration, stated

    asked = Registration(
        folder=_one_folder(folder, model),
        name=name,
        version=version,
        bump=bump,
        facts=stated(
            base_model=base_model,
            method=method,
            dataset=dataset,
            run=run,
            domain=domain,
            description=description,
            license=license_,
            usage_restrictions=usage_restrictions,
            capabilities=tuple(capability or ()),
            tags=tuple(tag or ()),
        ),
        performance_metrics=performance_metrics,
        alias=alias,
        idempotency_key=idempotency_key,
        fix_names=fix_names,
    )
    _register(asked, home, as_json=as_json)


def _register(asked: Registration, home: str | None, *, as_json: bool) -> None:
    """Register a version, and print it."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.versions.register import register

    notes: list[str] = []
    with waiting("Checking and storing the files", quiet=as_json):
        registry = open_registry(home)
        record = register(registry, asked, on_note=notes.append)
    _show(registry, record, notes, as_json=as_json)


def _show(registry: RegistryApi, record: VersionRecord, notes: list[str], *, as_json: bool) -> None:
    """Print a registered version, the notes on it, and the retired versions that hold the same files."""
    from llamafarm_ray.workflows.versions.copies import retired_copies

    retired = {copy.ref: copy.retired or "" for copy in retired_copies(registry, record)}
    if as_json:
        told = {"ref": record.ref, **record.registered.model_dump(mode="json")}
        print_json({**told, "notes": notes, "retired_copies": retired})
        return
    for note in notes:
        errors.line(note)
    facts = record.registered
    say(f"Registered {record.ref} ({facts.kind}, {size(facts.size_bytes)}, {facts.manifest[7:19]}).")
    for ref, why in retired.items():
        say(f"The same files were retired as {ref}{f': {why}' if why else ''}.")


def _one_folder(folder: Path | None, model: Path | None) -> Path:
    from llamafarm_ray.errors import InputError

    if folder is not None and model is not None:
        raise InputError(f"Two folders were given, {folder} and {model}.", hint="Leave --model out.")
    chosen = folder or model
    if chosen is None:
        raise InputError(
            "No folder was given: --model is missing.",
            hint="Say which files to register: --model ./trained_models/lora_v1",
        )
    return chosen
