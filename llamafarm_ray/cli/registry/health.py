"""``llamafarm registry verify`` and ``head``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import facts, print_json, say, size, stages

if TYPE_CHECKING:
    from llamafarm_ray.registry.history.verify import Verification

__all__ = ["head", "verify"]


def verify(
    head: Annotated[
        str | None, typer.Option("--head", metavar="N@sha256:...", help="Output of `head`: the log must contain it.")
    ] = None,
    blobs: Annotated[bool, typer.Option("--blobs/--no-blobs", help="Read and hash every stored file too.")] = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check the whole chain of commits and every stored file; exit status 1 where something is wrong."""
    from llamafarm_ray.errors import IntegrityError, NotFoundError
    from llamafarm_ray.registry import Head, registry_home
    from llamafarm_ray.registry.history.verify import verify as verify_home

    expected = Head.parse(head) if head else None
    place = registry_home(home)
    with stages(quiet=as_json) as progress:
        found = verify_home(place, head=expected, blobs=blobs, on_progress=progress)
    if not found.commits and not found.problems:
        raise NotFoundError(f"There is no registry at {place.uri}: it has no commit.", hint="Check --home.")
    if as_json:
        print_json(
            {
                "commits": found.commits,
                "blobs": found.blobs,
                "bytes": found.bytes,
                "head": str(found.head),
                "problems": found.problems,
            }
        )
    else:
        _show(found, place.uri, with_files=blobs)
    if found.problems:
        count = len(found.problems)
        raise IntegrityError(
            f"{place.uri} has {count} problem{'s' if count > 1 else ''}; the first: {found.problems[0]}",
            hint="Restore what is named from a backup.",
        )


def head(home: Home = None, as_json: Json = False) -> None:
    """Print the last commit. Kept elsewhere, it proves later that nothing was cut off: `verify --head`."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.registry.governance.access import EVERY_NAMESPACE, Action

    registry = open_registry(home)
    registry.allow(Action.READ, EVERY_NAMESPACE, target="head")
    if as_json:
        print_json({"sequence": registry.head.sequence, "digest": registry.head.digest})
        return
    say(str(registry.head))


def _show(found: Verification, uri: str, *, with_files: bool) -> None:
    facts(
        uri,
        [
            ("commits", f"{found.commits} are good"),
            ("files", f"{found.blobs} read, {size(found.bytes)}" if with_files else "not read (--no-blobs)"),
            ("head", found.head),
        ],
    )
    for problem in found.problems:
        say(problem, style="red")
    if not found.problems:
        say("Nothing is wrong.", style="green")
