"""``llamafarm registry cache``: this machine's copies of pulled versions."""

from __future__ import annotations

from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Json, Reference
from llamafarm_ray.cli.terminal import ago, print_json, say, size, table

__all__ = ["app"]

app = typer.Typer(help="This machine's copies of pulled versions.", no_args_is_help=True)


@app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List what was pulled to this machine, the most recently used first."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.node_cache import cached_versions

    registry = open_registry(home)
    found = cached_versions(registry)
    if as_json:
        print_json(
            [
                {
                    "digest": item.version.digest,
                    "versions": item.names,
                    "size_bytes": item.version.size_bytes,
                    "last_used": item.version.last_used.isoformat(),
                    "pinned": item.version.pinned,
                    "in_use": item.version.in_use,
                }
                for item in found
            ]
        )
        return
    if not found:
        say(f"Nothing was pulled to {registry.content.cache} yet.")
        return
    rows = [
        (
            item.version.digest.short,
            "\n".join(item.names),
            size(item.version.size_bytes),
            ago(item.version.last_used),
            " ".join(
                word for word, holds in (("pinned", item.version.pinned), ("in use", item.version.in_use)) if holds
            ),
        )
        for item in found
    ]
    table(f"Cache {registry.content.cache}", ("digest", "versions", "size", "last used", ""), rows, drop_empty=True)


@app.command("pin")
def pin(reference: Reference, home: Home = None, as_json: Json = False) -> None:
    """Keep a version in this machine's cache, once it is pulled."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.node_cache import pin as pin_version

    _show(pin_version(open_registry(home), reference), is_pinned=True, as_json=as_json)


@app.command("unpin")
def unpin(reference: Reference, home: Home = None, as_json: Json = False) -> None:
    """Let a version be evicted again."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.node_cache import unpin as unpin_version

    _show(unpin_version(open_registry(home), reference), is_pinned=False, as_json=as_json)


@app.command("evict")
def evict(
    limit: Annotated[str, typer.Option("--max", metavar="SIZE", help="How much may stay: 20GB, 512Mi, 0.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Delete the least recently used versions from this machine's cache; what is pinned or in use stays."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.node_cache import evict as evict_versions

    evicted = evict_versions(open_registry(home), limit)
    if as_json:
        print_json({"evicted": evicted})
        return
    for name in evicted:
        say(f"evicted {name}")
    if not evicted:
        say("Nothing had to go.")


def _show(reference: str, *, is_pinned: bool, as_json: bool) -> None:
    if as_json:
        print_json({"version": reference, "pinned": is_pinned})
        return
    say(f"{reference} {'stays in' if is_pinned else 'may be evicted again from'} this machine's cache.")
