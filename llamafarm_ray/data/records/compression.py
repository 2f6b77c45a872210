"""Compressed files: opening ``.gz`` and ``.zst``, and the names of files without these endings."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from llamafarm_ray.data.records.base import UnreadableFileError
from llamafarm_ray.errors import StorageError

__all__ = ["COMPRESSIONS", "DAMAGED", "file_type", "open_to_read", "open_to_write", "stem_of"]

COMPRESSIONS = (".gz", ".zst")
MAX_BOMB_BYTES = 1 << 30
"""A file that unpacks to more than this is refused where that is also more than ``MAX_RATIO`` times its size."""

MAX_RATIO = 200
DAMAGED = (gzip.BadGzipFile, zlib.error, zstandard.ZstdError, EOFError)
"""Errors that damaged compressed files raise while they are read."""


def file_type(path: Path) -> str:
    """Return the extension that gives a file's type, in lower case and without that of its compression."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix in COMPRESSIONS else suffix


def stem_of(path: Path) -> str:
    """Return a file's name without its type and compression: ``qa`` for ``qa.jsonl.gz``."""
    return path.with_suffix("").stem if path.suffix.lower() in COMPRESSIONS else path.stem


def open_to_read(path: Path) -> IO[bytes]:
    """Open a file; its decompressed bytes are read in a streaming way.

    Raises:
        UnreadableFileError: it can't be opened.
    """
    try:
        if path.suffix.lower() == ".gz":
            return io.BufferedReader(_BoundedReader(path, cast("IO[bytes]", gzip.open(path, "rb"))))
        if path.suffix.lower() == ".zst":
            return io.BufferedReader(_BoundedReader(path, io.BufferedReader(_ZstdReader(path.open("rb")))))
        return path.open("rb")
    except OSError as error:
        raise UnreadableFileError(path, f"can't be read: {error.strerror}.") from error


def open_to_write(path: Path, *, type_of: Path) -> IO[bytes]:
    """Open a file to write, compressed as the name of ``type_of`` says. The same bytes give the same file.

    Raises:
        StorageError: it can't be written.
    """
    try:
        if type_of.suffix.lower() == ".gz":
            return cast("IO[bytes]", gzip.GzipFile(path, "wb", mtime=0))
        if type_of.suffix.lower() == ".zst":
            return cast("IO[bytes]", zstandard.open(path, "wb"))
        return path.open("wb")
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror}.") from error


class _BoundedReader(io.RawIOBase):
    """The bytes of a compressed file, unless it is made to fill a disk or a memory."""

    def __init__(self, path: Path, unpacked: IO[bytes]) -> None:
        self._path = path
        self._unpacked = unpacked
        self._most = max(MAX_BOMB_BYTES, MAX_RATIO * path.stat().st_size)
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._unpacked.read(len(buffer))
        buffer[: len(data)] = data
        self._count += len(data)
        if self._count > self._most:
            raise UnreadableFileError(
                self._path,
                f"unpacks to more than {MAX_BOMB_BYTES >> 20} MiB and {MAX_RATIO} times its size.",
                hint="Unpack it first if that is right.",
            )
        return len(data)

    def close(self) -> None:
        self._unpacked.close()
        super().close()


class _ZstdReader(io.RawIOBase):
    """Decompressed bytes of a file of Zstandard frames; one that is cut off raises EOFError, as gzip does."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._is_begun = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            given = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._is_begun = zstandard.ZstdDecompressor().decompressobj(), False
            given = given or self._source.read(_CHUNK_BYTES)
            if not given:
                if self._is_begun:
                    raise EOFError("it ends early")
                return 0
            self._is_begun = True
            self._ready = self._frame.decompress(given)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


_CHUNK_BYTES = 65536
