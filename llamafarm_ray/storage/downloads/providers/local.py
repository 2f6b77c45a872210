"""Models on this machine: a folder (links in it are followed), a GGUF file, an archive."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.downloads.providers.archives import is_archive
from llamafarm_ray.storage.downloads.providers.source import Listing
from llamafarm_ray.storage.downloads.providers.spelling import model_name
from llamafarm_ray.storage.downloads.providers.wanted_files import choose_files
from llamafarm_ray.storage.downloads.remote import Answer, ReplacedError, Wanted
from llamafarm_ray.storage.downloads.web import Web
from llamafarm_ray.storage.ranges import PIECE_BYTES
from llamafarm_ray.types import Digest

__all__ = ["LocalFile", "LocalSource"]


class LocalFile:
    """A file of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shown = str(path)

    @contextlib.contextmanager
    def read(self, begin: int, end: int) -> Iterator[Answer]:
        """Read a range of bytes."""
        try:
            file = self._path.open("rb", buffering=0)
        except OSError as error:
            raise InputError(f"{self._path} can't be read: {error.strerror}.", hint="Check its permissions.") from None
        with file:
            file.seek(begin)
            found = os.fstat(file.fileno())
            yield Answer(begin, found.st_size, _validator(found), _pieces(file, end - begin))


class LocalSource:
    """A model on this machine.

    Args:
        path: a folder or a file.
        commit: the known revision of a folder, such as a snapshot in another tool's cache.
    """

    kind = "local"
    revision = ""
    needs_network = False
    variant = ""

    def __init__(self, path: Path, *, commit: str = "") -> None:
        self._path = path.absolute()
        self._commit = commit
        self.address = str(self._path)
        self.name = self._path.name if self._path.is_dir() else model_name(self._path.name)
        self.is_fixed = False

    def listing(self, web: Web, include: Sequence[str]) -> Listing:
        """List the folder's files, or the file."""
        del web
        if self._path.is_file():
            files = [self._wanted(self._path.name, self._path)]
            return Listing(_state(files), files, frozenset({self._path.name} if is_archive(self._path.name) else ()))
        found = {path.relative_to(self._path).as_posix(): path for path in _files(self._path)}
        sizes: dict[str, int | None] = {name: path.stat().st_size for name, path in found.items()}
        files = [self._wanted(name, found[name]) for name in choose_files(sizes, include, self.address)]
        return Listing(self._commit or _state(files), files)

    def copy_elsewhere(self) -> Path | None:
        """Return nothing: this is the copy."""
        return None

    @staticmethod
    def _wanted(name: str, path: Path) -> Wanted:
        found = path.stat()
        return Wanted(name, LocalFile(path.resolve()), size_bytes=found.st_size, validator=_validator(found))


def _files(folder: Path) -> Iterator[Path]:
    for current, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(current, name)).is_file())


def _pieces(file: FileIO, num_bytes: int) -> Iterator[bytes]:
    before = _validator(os.fstat(file.fileno()))
    while num_bytes > 0 and (data := file.read(min(PIECE_BYTES, num_bytes))):
        num_bytes -= len(data)
        yield data
    if _validator(os.fstat(file.fileno())) != before:
        raise ReplacedError


def _validator(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def _state(files: Sequence[Wanted]) -> str:
    return Digest.of(repr([(one.path, one.validator) for one in files]).encode())
