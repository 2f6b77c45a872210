"""``llamafarm models cache``: this machine's copies of downloaded and pulled models."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import ago, print_json, say, size, table, waiting
from llamafarm_ray.types import duration

if TYPE_CHECKING:
    from llamafarm_ray.workflows.inspection.node_cache import CachedModel, Verified

__all__ = ["app"]

app = typer.Typer(help="This machine's copies of downloaded and pulled models.", no_args_is_help=True)

_COLD_AFTER = dt.timedelta(days=30)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A source that was downloaded, a registered version, or a digest.")
]
Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="Sources that were downloaded, registered versions, or digests."),
]


@app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List what was downloaded and pulled to this machine, the most recently used first."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.inspection.node_cache import cached_models

    registry = open_registry(home)
    found = cached_models(registry)
    if as_json:
        print_json([_as_json(model) for model in found])
        return
    if not found:
        say(f"Nothing is in {registry.content.cache} yet.")
        return
    rows = [
        (
            model.version.digest.short,
            "\n".join(model.names),
            "\n".join(model.sources),
            size(model.version.size_bytes),
            size(model.frees_bytes) if not model.kept_by else "",
            ago(model.version.last_used),
            model.kept_by,
            "compressed" if model.version.is_compressed else "",
        )
        for model in found
    ]
    columns = ("digest", "versions", "source", "size", "frees", "last used", "kept", "form")
    table(f"Cache {registry.content.cache}", columns, rows, drop_empty=True)
    if unfinished := registry.content.downloads.unfinished_bytes():
        say(f"Unfinished downloads take {size(unfinished)}; they go on with the same command.")


@app.command("pin")
def pin(model: Model, home: Home = None, as_json: Json = False) -> None:
    """Keep a model in this machine's cache; a registered version from when it is pulled."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.inspection.node_cache import pin as pin_model

    _show(pin_model(open_registry(home), model), is_pinned=True, as_json=as_json)


@app.command("unpin")
def unpin(model: Model, home: Home = None, as_json: Json = False) -> None:
    """Let a model be evicted again."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.inspection.node_cache import unpin as unpin_model

    _show(unpin_model(open_registry(home), model), is_pinned=False, as_json=as_json)


@app.command("evict")
def evict(
    models: Models = None,
    limit: Annotated[
        str | None, typer.Option("--max", metavar="SIZE", help="Size that may stay: 20GB, 512Mi, 0.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and what that frees.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Delete models from this machine's cache: those named, or the least valuable ones down to a limit.

    Value is the time that a byte saves when it need not be fetched again, less the longer it was not used. Models in
    use, pinned models, and bases of registered versions that the home has no copy of stay.
    """
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.inspection.node_cache import evict as evict_models

    found = evict_models(open_registry(home), models or (), limit=limit, dry_run=dry_run)
    if as_json:
        print_json({"evicted": found.titles, "freed_bytes": found.freed_bytes, "dry_run": dry_run})
        return
    for title in found.titles:
        say(f"{'would evict' if dry_run else 'evicted'} {title}")
    if found.titles or found.freed_bytes:
        say(f"{size(found.freed_bytes)} {'would be' if dry_run else 'are'} free again.")
    else:
        say("Nothing had to go.")


@app.command("compress")
def compress(
    models: Models = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="TIME",
            help="Least time without use: 30d, 12h. By default LLAMAFARM_CACHE_COMPRESS_AFTER, else 30d.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be compressed, and about how much that frees.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Compress models in this machine's cache: those named, or all that were not used for 30 days.

    They come back, with every byte checked, when they are used. Models in use and pinned ones stay as they are.
    """
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.storage.node_cache.cache_settings import compress_after_setting
    from llamafarm_ray.workflows.inspection.node_cache import compress as compress_models

    unused_for = duration(older_than) if older_than else compress_after_setting() or _COLD_AFTER
    with waiting("Compressing", quiet=as_json or dry_run):
        found = compress_models(open_registry(home), models or (), unused_for=unused_for, dry_run=dry_run)
    if as_json:
        print_json({"compressed": found.titles, "freed_bytes": found.freed_bytes, "dry_run": dry_run})
        return
    for title in found.titles:
        say(f"{'would compress' if dry_run else 'compressed'} {title}")
    if found.titles:
        say(f"{'about ' if dry_run else ''}{size(found.freed_bytes)} {'would be' if dry_run else 'are'} free again.")
    else:
        say("Nothing is to compress.")


@app.command("verify")
def verify(models: Models = None, home: Home = None, as_json: Json = False) -> None:
    """Hash every byte of models in this machine's cache; exits with 1 where one was damaged."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.inspection.node_cache import verify as verify_models

    def tell(checked: Verified) -> None:
        if not as_json:
            said = "is right" if checked.is_sound else "was damaged: the next download or pull of it mends it"
            say(f"{checked.model.title} {said}", style="" if checked.is_sound else "red")

    with waiting("Hashing", quiet=as_json):
        found = verify_models(open_registry(home), models or (), on_model=tell)
    if as_json:
        print_json([{**_as_json(one.model), "sound": one.is_sound} for one in found])
    if not all(one.is_sound for one in found):
        raise typer.Exit(1)


def _as_json(model: CachedModel) -> dict[str, object]:
    return {
        "digest": model.version.digest,
        "versions": model.names,
        "sources": model.sources,
        "size_bytes": model.version.size_bytes,
        "frees_bytes": model.frees_bytes,
        "last_used": model.version.last_used.isoformat(),
        "pinned": model.version.pinned,
        "in_use": model.version.in_use,
        "compressed": model.version.is_compressed,
        "referenced": model.is_referenced,
    }


def _show(title: str, *, is_pinned: bool, as_json: bool) -> None:
    if as_json:
        print_json({"model": title, "pinned": is_pinned})
        return
    say(f"{title} {'stays in' if is_pinned else 'may be evicted again from'} this machine's cache.")
