"""Archives and compressed files: their members one by one, in memory, within bounds."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from llamafarm_ray.data.readers.base import BrokenDocumentError, OversizedDocumentError

__all__ = ["DAMAGE", "MAX_CONTAINER_BYTES", "MAX_UNPACKED_BYTES", "Member", "is_container", "members_of"]

MAX_CONTAINER_BYTES = 4 * 1024 * 1024 * 1024
"""Larger archives are refused."""

MAX_UNPACKED_BYTES = 4 * 1024 * 1024 * 1024
"""Of an archive that unpacks to more than this the rest is left out."""

_MAX_MEMBERS = 100_000
_ENCRYPTED_FLAG = 0x1
_TAR_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.zstd")

DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, KeyError),
)
"""Errors of the libraries on damaged archives; zstandard's own error is made an OSError here."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Args:
        open: opens it to read.
    """

    name: str
    open: Callable[[], Any]

    def read(self, num_bytes: int) -> bytes:
        """Return up to so many of its bytes."""
        with self.open() as stream:
            return bytes(stream.read(num_bytes))


def is_container(name: str) -> bool:
    """Return True if a file of this name holds others: ``.zip``, ``.tar``, ``.gz``, ``.bz2``, ``.xz``, ``.zst``."""
    return _kind(name) != ""


def members_of(name: str, file: IO[bytes]) -> Iterator[Member]:
    """Yield the files in an archive, or the one in a compressed file. Each is read before the next is asked for.

    Args:
        name: of the archive; its extension says the format.
        file: the archive, which can be sought in.

    Raises:
        BrokenDocumentError: it is damaged or encrypted.
        OversizedDocumentError: it holds too many files.
    """
    kind = _kind(name)
    if kind == "zip":
        yield from _zip_members(file)
    elif kind == "tar":
        yield from _tar_members(_unpacked(name, file))
    elif kind:
        yield Member(PurePosixPath(name).stem, lambda: contextlib.nullcontext(_unpacked(name, file)))


def _kind(name: str) -> str:
    lower = name.lower()
    if lower.endswith(".zip"):
        return "zip"
    if lower.endswith(_TAR_SUFFIXES):
        return "tar"
    return lower[-4:].rpartition(".")[2] if lower.endswith((".gz", ".bz2", ".xz", ".zst")) else ""


def _unpacked(name: str, file: IO[bytes]) -> object:
    suffix = PurePosixPath(name.lower()).suffix
    if suffix in {".gz", ".tgz"}:
        return gzip.GzipFile(fileobj=file)
    if suffix in {".bz2", ".tbz2"}:
        return bz2.BZ2File(file)
    if suffix in {".xz", ".txz"}:
        return lzma.LZMAFile(file)
    if suffix in {".zst", ".zstd"}:
        return _ZstdStream(file)
    return file


class _ZstdStream:
    """A zstandard stream of one or several frames, whose damage is an OSError as with the others."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard  # few sources have one

        self._error = zstandard.ZstdError
        # A window of 128 MiB is what `zstd` itself takes without being asked.
        self._stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, read_across_frames=True)

    def read(self, num_bytes: int = -1) -> bytes:
        try:
            return bytes(self._stream.read(num_bytes))
        except self._error as error:
            raise OSError(str(error)) from error


def _zip_members(file: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > _MAX_MEMBERS:
            raise OversizedDocumentError(f"it holds {len(members)} files; {_MAX_MEMBERS} are the limit.")
        for member in sorted(members, key=lambda member: member.filename):
            yield Member(member.filename, functools.partial(_zip_open, archive, member))


def _zip_open(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    if member.flag_bits & _ENCRYPTED_FLAG:
        raise BrokenDocumentError("it is encrypted.", hint="Unpack it first.")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise BrokenDocumentError("it is a link.")
    return archive.open(member)


def _tar_members(stream: Any) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for number, member in enumerate(archive):
            if number >= _MAX_MEMBERS:
                raise OversizedDocumentError(f"it holds more than {_MAX_MEMBERS} files.")
            if member.isfile():
                yield Member(member.name.removeprefix("./"), functools.partial(_tar_open, archive, member))


def _tar_open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    return archive.extractfile(member) or io.BytesIO()
