"""Find the documents of sources: folders, searched all the way down, files, patterns, URIs and queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llamafarm_ray.data.sources.databases import find_rows, is_database
from llamafarm_ray.data.sources.found import Sources, source_name
from llamafarm_ray.data.sources.local import find_local
from llamafarm_ray.data.sources.remote import find_remote
from llamafarm_ray.data.sources.wanted import DOCUMENTS, Wanted
from llamafarm_ray.errors import InputError

__all__ = ["discover", "is_remote", "local_path"]

_MAX_TYPES_SHOWN = 12


def discover(source: str | Path | Sequence[str], *, exclude: Path | None = None, wanted: Wanted = DOCUMENTS) -> Sources:
    """Find the documents of one or several sources, or the files of rows.

    Hidden files and folders are passed over. Links to folders are not followed, and links to files only where they
    stay inside of the source. With several sources each path begins with the name of its source.

    Args:
        source: a folder, a single document, a pattern (``docs/**/*.md``), a URI, or a database's URI with a query; or
            several of them.
        exclude: a folder not to look into (the dataset to build, where it lies inside of the source).
        wanted: files to look for.

    Raises:
        InputError: a source is missing or can't be listed, or none holds a file of a supported type.
    """
    single = isinstance(source, str | Path)
    given = [str(source)] if isinstance(source, str | Path) else list(source)
    found = Sources(name=source_name(source))
    labels: Counter[str] = Counter()
    for one in given:
        part = _find(one, exclude, wanted)
        label = "" if single else _label(part.name, labels)
        found.files += [replace(file, path=f"{label}{file.path}") for file in part.files]
        found.skipped += [replace(skipped, path=f"{label}{skipped.path}") for skipped in part.skipped]
        found.ignored.update(part.ignored)
    if not found.files and not found.skipped:
        raise InputError(
            f"The source {found.name!r} has {_content(found)}, no {wanted.noun} to read.",
            hint=f"Supported are {', '.join(wanted.supported)}.",
        )
    return found


def _find(source: str, exclude: Path | None, wanted: Wanted) -> Sources:
    if is_database(source):
        return find_rows(source)
    return find_remote(source, wanted) if is_remote(source) else find_local(local_path(source), exclude, wanted)


def is_remote(source: str) -> bool:
    """Return True for the URI of a source that is not a path of this machine."""
    return "://" in source and not source.startswith("file://")


def local_path(source: str) -> str:
    """Return the path of a source that may be written as a ``file://`` URI."""
    return source.removeprefix("file://")


def _label(name: str, labels: Counter[str]) -> str:
    """Return the beginning of the paths of a source, another one for each."""
    labels[name] += 1
    if not name:
        return ""
    return f"{name}/" if labels[name] == 1 else f"{name}-{labels[name]}/"


def _content(found: Sources) -> str:
    if not found.ignored:
        return "no files"
    shown = [f"{count} {extension}" for extension, count in found.ignored.most_common(_MAX_TYPES_SHOWN)]
    more = len(found.ignored) - len(shown)
    return f"only other files ({', '.join(sorted(shown))}{f' and {more} more types' if more else ''})"
