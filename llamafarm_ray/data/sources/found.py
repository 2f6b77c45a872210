"""Documents of a source, and the files that are none."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

__all__ = ["SkippedDocument", "SourceFile", "Sources", "file_type", "plain_path", "source_name"]

_CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A document to read.

    Args:
        path: relative to the source root, with forward slashes; what cannot be text in the name is escaped. The URL
            for a page of the web.
        location: the absolute path, in the file system's own bytes, or a URI.
    """

    path: str
    location: bytes


@dataclass(frozen=True, slots=True)
class SkippedDocument:
    """A document of a supported type, or a folder, that gave nothing, and why."""

    path: str
    reason: str


@dataclass(slots=True)
class Sources:
    """Files of the sources, in the order of the paths.

    Args:
        name: the sources as they were given, for messages.
        files: documents to read.
        skipped: documents and folders that can't be read.
        ignored: number of other files by their extension.
    """

    name: str = ""
    files: list[SourceFile] = field(default_factory=list)
    skipped: list[SkippedDocument] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def source_name(source: str | Path | Sequence[str]) -> str:
    """Return one or several sources as they were given, for messages."""
    return str(source) if isinstance(source, str | Path) else ", ".join(source)


def plain_path(path: PurePath | str) -> str:
    """Return a path as one line of text, with forward slashes; other bytes and control characters are escaped."""
    text = os.fsencode(PurePath(path).as_posix()).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def file_type(path: str) -> str:
    """Return the extension that a file of another type is counted under."""
    return PurePath(path).suffix.lower() or "(no extension)"
