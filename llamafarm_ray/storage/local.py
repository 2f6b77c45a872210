"""Writing to a local folder so that it lasts: the bytes are synced before their name appears, then the folder."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["TEMPORARY", "clock", "create", "read_json_lines", "write_whole", "writing"]

TEMPORARY = r"\..+\.[0-9a-f]{12}"
"""The pattern of the names that files have while they are written."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name ``path`` when the block ends, replacing another, and vanishes when it fails."""
    with _synced(path) as (file, partial):
        yield file
        _sync_file(file)
        partial.rename(path)
        _sync_folder(path.parent)


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all, in a folder that is made if need be. A machine that stops may lose it.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}")  # a name beside it may be as long as the system allows
    try:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file with one on each line; none where there is no file.

    A line that was cut when its writer was killed is passed over.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(value, dict):
                yield value


def create(path: Path, data: bytes) -> None:
    """Write a new file: the name appears with all its bytes or not at all, for one of many racing writers.

    Raises:
        FileExistsError: the name is taken.
    """
    with _synced(path) as (file, partial):
        file.write(data)
        _sync_file(file)
        os.link(partial, path)
        _sync_folder(path.parent)


def clock(folder: Path) -> dt.datetime:
    """Return the time by the clock of a folder's file system, which a network's server has of its own."""
    _make_folder(folder)
    probe = folder / f".clock.{secrets.token_hex(6)}"
    try:
        probe.write_bytes(b"now")
        return dt.datetime.fromtimestamp(probe.stat().st_mtime, dt.UTC)
    finally:
        probe.unlink(missing_ok=True)


@contextlib.contextmanager
def _synced(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    _make_folder(path.parent)
    partial = path.with_name(f".{secrets.token_hex(8)}")  # a name beside it may be as long as the system allows
    try:
        with partial.open("xb") as file:
            yield file, partial
    finally:
        partial.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, each of them synced into the one above."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        try:
            made.mkdir()
        except FileExistsError:
            if not made.is_dir():
                raise NotADirectoryError(f"{made} is no folder") from None
        _sync_folder(made.parent)


def _sync_file(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
