"""Find the documents under a source: a folder, searched all the way down, or a single file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llamafarm_ray.data.readers import MAX_DOCUMENT_BYTES, SUPPORTED_EXTENSIONS, reader_for
from llamafarm_ray.data.readers.base import oversized_message
from llamafarm_ray.errors import InputError

__all__ = ["SkippedDocument", "SourceFile", "Sources", "discover"]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A document to read.

    Args:
        path: relative to the source root, with forward slashes; what cannot be text in the name is escaped.
        location: the absolute path, in the file system's own bytes.
    """

    path: str
    location: bytes


@dataclass(frozen=True, slots=True)
class SkippedDocument:
    """A document of a supported type that gave nothing, and why."""

    path: str
    reason: str


@dataclass(slots=True)
class Sources:
    """What was found, in the order of the paths. ``ignored`` counts other files by their extension."""

    files: list[SourceFile] = field(default_factory=list)
    skipped: list[SkippedDocument] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def discover(source: Path, *, exclude: Path | None = None) -> Sources:
    """Find the documents under ``source``.

    Hidden files and folders are passed over, links to folders are not followed, and links to files only where they
    stay inside of the source.

    Args:
        source: a folder or a single document.
        exclude: a folder not to look into (the dataset to build, where it lies inside of the source).

    Raises:
        InputError: ``source`` is missing or can't be listed, or holds no document of a supported type.
    """
    supported = f"Supported are {', '.join(SUPPORTED_EXTENSIONS)}."
    try:
        root = source.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise InputError(f"The source {str(source)!r} does not exist.", hint="Give a folder of documents.") from error
    found = Sources()
    if root.is_dir():
        for path in _walk(root, source, exclude.resolve() if exclude else None):
            _add(found, path, root)
    elif root.is_file():
        _add(found, root, root.parent)
    else:
        raise InputError(f"The source {str(source)!r} is neither a folder nor a file.")
    if not found.files and not found.skipped:
        kinds = ", ".join(f"{count} {extension}" for extension, count in sorted(found.ignored.items()))
        content = f"only other files ({kinds})" if kinds else "no files"
        raise InputError(f"The source {str(source)!r} has {content}, no document to read.", hint=supported)
    return found


def _walk(root: Path, source: Path, exclude: Path | None) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        if error.filename == str(root):
            raise InputError(f"The source {str(source)!r} can't be listed: {error.strerror}.") from error

    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(folder, name) != exclude)
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)


def _add(found: Sources, path: Path, root: Path) -> None:
    if reader_for(path) is None:
        found.ignored[path.suffix.lower() or "(no extension)"] += 1
        return
    name = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
    reason = _refusal(path, root)
    if reason:
        found.skipped.append(SkippedDocument(name, reason))
    else:
        found.files.append(SourceFile(name, os.fsencode(path)))


def _refusal(path: Path, root: Path) -> str:
    """Why the file at ``path`` is not even opened; "" if it is."""
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
            return "it is a link that leads out of the source."
        if not path.is_file():
            return "it is no regular file."
        num_bytes = path.stat().st_size
    except (OSError, RuntimeError):
        return "it is a link that leads nowhere."
    return oversized_message(num_bytes) if num_bytes > MAX_DOCUMENT_BYTES else ""
