"""``llamafarm models tag``, ``record-metrics``, ``sign``, ``deprecate``, ``retire``, ``gc``: a version's life."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import Home, Json, Reason, Reference
from llamafarm_ray.cli.terminal import facts, print_json, say, size, waiting
from llamafarm_ray.types import duration

if TYPE_CHECKING:
    from llamafarm_ray.registry import VersionRecord

__all__ = ["deprecate", "gc", "record_metrics", "retire", "sign", "tag"]

Message = Annotated[str, typer.Option("--message", help="Why, and what to use instead.")]


def tag(
    reference: Reference,
    add: Annotated[list[str] | None, typer.Option("--add", help="Tag to add; may be given again.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="Tag to remove; may be given again.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add and remove tags of a version."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import open_registry

    if not add and not remove:
        raise InputError("No tag was given.", hint=f"llamafarm models tag {reference} --add nightly")
    record = open_registry(home).tag(reference, add=tuple(add or ()), remove=tuple(remove or ()))
    _show(record, f"{record.ref} has the tags {', '.join(record.tags)}." if record.tags else "", as_json=as_json)


def record_metrics(
    reference: Reference,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="JSON file that `evaluate` wrote.")],
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add evaluation results to a version."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.versions.metrics import flat_metrics
    from llamafarm_ray.workflows.versions.metrics import record_metrics as record_them

    record = record_them(open_registry(home), reference, path, reason=reason)
    _show(record, f"{record.ref} has {len(flat_metrics(record.metrics))} results.", as_json=as_json)


def sign(
    reference: Reference,
    key: Annotated[Path, typer.Option("--key", help="File with the private key, PEM.")],
    password_env: Annotated[
        str | None, typer.Option("--password-env", metavar="VAR", help="Environment variable with its password.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Sign a version's files with OpenSSF model-signing."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import open_registry

    password = os.environ.get(password_env) if password_env else None
    if password_env and password is None:
        raise InputError(f"The environment variable {password_env} is not set.", hint="Put the key's password there.")
    with waiting("Signing", quiet=as_json):
        record = open_registry(home).sign(reference, key, password=password)
    _show(record, f"{record.ref} is signed: {', '.join(key[7:19] for key in record.signers)}.", as_json=as_json)


def deprecate(reference: Reference, message: Message = "", home: Home = None, as_json: Json = False) -> None:
    """Tell users to use another version; this one keeps working."""
    from llamafarm_ray.registry import open_registry

    record = open_registry(home).deprecate(reference, message)
    _show(record, f"{record.ref} is deprecated.", as_json=as_json)


def retire(reference: Reference, message: Message = "", home: Home = None, as_json: Json = False) -> None:
    """End a version's life: it is not served, pulled or promoted any more."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.versions.copies import living_copies
    from llamafarm_ray.workflows.versions.describe import as_dict

    registry = open_registry(home)
    record = registry.retire(reference, message)
    copies = [copy.ref for copy in living_copies(registry, record)]
    if as_json:
        print_json({**as_dict(record, ()), "living_copies": copies})
        return
    if copies:
        say(f"{record.ref} is retired. The same files live on as {', '.join(copies)}.")
        return
    say(f"{record.ref} is retired. `llamafarm models gc --retired-for 30d` gives up its files.")


def gc(
    dry_run: Annotated[
        bool | None, typer.Option("--dry-run/--no-dry-run", help="Only say what would be deleted (so by default).")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Really delete: the same as --no-dry-run.")] = False,
    grace: Annotated[str, typer.Option("--grace", help="Least age of unused bytes.")] = "24h",
    retired_for: Annotated[
        str | None, typer.Option("--retired-for", metavar="TIME", help="Give up versions retired longer, such as 30d.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Delete stored files that no version, deployment or open pull refers to."""
    from dataclasses import asdict

    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.registry.gc import collect

    if dry_run and delete:
        raise InputError("Both --dry-run and --delete were given.", hint="Leave one of them out.")
    is_dry = not delete and dry_run is not False
    purge = duration(retired_for) if retired_for else None
    age = duration(grace)
    with waiting("Looking for what nothing refers to", quiet=as_json):
        found = collect(open_registry(home), grace=age, purge_retired_after=purge, dry_run=is_dry)
    if as_json:
        print_json(asdict(found))
        return
    facts(
        "Would be deleted" if is_dry else "Deleted",
        [
            ("files", found.blobs),
            ("manifests", found.manifests),
            ("together", size(found.bytes)),
            ("retired versions given up", "\n".join(found.purged)),
            ("kept by open pulls", found.kept_by_lease or ""),
        ],
    )
    if is_dry:
        say("Nothing was deleted. `llamafarm models gc --delete` does it.")


def _show(record: VersionRecord, text: str, *, as_json: bool) -> None:
    if as_json:
        from llamafarm_ray.workflows.versions.describe import as_dict

        print_json(as_dict(record, ()))
        return
    say(text or f"{record.ref} has no tags.")
