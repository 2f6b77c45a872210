"""A folder anywhere fsspec reaches, with the few operations durability is built on."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage import local
from llamafarm_ray.storage.failures import as_storage_errors, store_code
from llamafarm_ray.storage.opening import open_uri
from llamafarm_ray.storage.ranges import Part, fetch_parts, read_part
from llamafarm_ray.types import Digest

__all__ = ["Location", "StoredFile"]

_PART_BYTES = 32 * 1024 * 1024
"""Smaller files are sent to an object store in one request."""
_MAX_PARTS = 9_000
_MAX_CONFLICTS = 10


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file below a location: its name there, its size in bytes, and when it was written (UTC)."""

    name: str
    size_bytes: int
    modified: dt.datetime


class Location:
    """A folder at a URI (``/data/home``, ``file://``, ``s3://bucket/home``, ``memory://``).

    Names below it are relative, with ``/`` between parts. On a local folder everything written is synced to disk
    before the call returns; on an object store a finished upload is durable by itself. Nothing is answered from a
    listing seen earlier: other processes write here too.

    Errors of a file system or object store (disk full, no permission, no such bucket, no credentials, nobody listening)
    reach the caller as :class:`~llamafarm_ray.errors.StorageError`.

    Args:
        uri: address. ``~`` is the user's home. Text without ``://`` is a path, whatever characters it has.
        is_patient: wait some minutes for an object store that does not answer, instead of half a minute.

    Raises:
        InputError: no installed fsspec file system understands the URI, or it has characters that fsspec reads as a
            pattern or as a chain of file systems.
    """

    def __init__(self, uri: str | os.PathLike[str], *, is_patient: bool = False) -> None:
        self.uri = os.path.expanduser(os.fspath(uri))  # noqa: PTH111  (a URI is no path)
        fs, root = open_uri(self.uri, is_patient=is_patient)
        self._fs: AbstractFileSystem = fs
        if isinstance(fs, LocalFileSystem):
            self.uri = root  # absolute: other processes have other current folders
        self.root: str = root.rstrip("/") or "/"
        self._whole: dict[str, int] = {}
        if "s3" in fs.protocol:
            fs.retries = 1  # botocore does it
            self._whole = {"max_concurrency": 1}  # one GET an object; by default s3fs asks for the size first

    @property
    def is_local(self) -> bool:
        """True if the folder is on this machine's file system."""
        return isinstance(self._fs, LocalFileSystem)

    def child(self, name: str) -> Location:
        """The folder ``name`` below this one."""
        made = copy.copy(self)
        made.uri, made.root = f"{self.uri.rstrip('/')}/{name}", self._path(name)
        return made

    def read(self, name: str) -> bytes:
        """The whole of a file.

        Raises:
            FileNotFoundError: there is none of that name.
            StorageError: it can't be read.
        """
        with as_storage_errors(f"{self.uri}/{name} can't be read", (FileNotFoundError,)):
            data: bytes = self._fs.cat_file(self._path(name), **self._whole)
        return data

    def read_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The whole of several files in the order given, ``None`` where one is missing; at once on an object store.

        Raises:
            StorageError: one of them can't be read.
        """
        paths = [self._path(name) for name in names]
        if not paths:
            return []
        if self.is_local:
            return [self._read_local(name, path) for name, path in zip(names, paths, strict=True)]
        with as_storage_errors(f"{self.uri} can't be read"):
            found = self._fs.cat(paths, on_error="return", **self._whole)
        return [self._found(name, found[path]) for name, path in zip(names, paths, strict=True)]

    def _read_local(self, name: str, path: str) -> bytes | None:
        """Read a file without fsspec, whose price is several times that of the reading."""
        with (
            contextlib.suppress(FileNotFoundError),
            as_storage_errors(f"{self.uri}/{name} can't be read", (FileNotFoundError,)),
        ):
            return Path(path).read_bytes()
        return None

    def _found(self, name: str, answer: bytes | Exception) -> bytes | None:
        if isinstance(answer, bytes):
            return answer
        with (
            contextlib.suppress(FileNotFoundError),
            as_storage_errors(f"{self.uri}/{name} can't be read", (FileNotFoundError,)),
        ):
            raise answer
        return None

    def stream(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from the offset ``start`` on, in pieces of at most :data:`.PIECE_BYTES`.

        Raises:
            FileNotFoundError: there is none of that name.
            StorageError: it can't be read.
        """
        path = self._path(name)
        with as_storage_errors(f"{self.uri}/{name} can't be read", (FileNotFoundError,)):
            if self.is_local:
                yield from read_part(Path(path), start, sys.maxsize)
            else:
                info = self._fs.info(path)
                if info["type"] != "file":
                    raise FileNotFoundError(path)
                yield from fetch_parts(self._fs, [(path, start, int(info["size"]))])

    def stream_parts(self, parts: Sequence[Part]) -> Iterator[bytes]:
        """The bytes of parts of files, one part after another, in pieces of at most :data:`.PIECE_BYTES`.

        Args:
            parts: name of each part's file, and the offsets where the part begins and ends.

        Raises:
            FileNotFoundError: one of the files is missing.
            StorageError: one can't be read.
        """
        with as_storage_errors(f"{self.uri} can't be read", (FileNotFoundError,)):
            paths = [(self._path(name), begin, end) for name, begin, end in parts]
            if self.is_local:
                for path, begin, end in paths:
                    yield from read_part(Path(path), begin, end)
            else:
                yield from fetch_parts(self._fs, paths)

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        """The bytes of a file from ``begin`` up to ``end``, fewer where it is shorter.

        Raises:
            FileNotFoundError: there is none of that name.
            StorageError: it can't be read.
        """
        with as_storage_errors(f"{self.uri}/{name} can't be read", (FileNotFoundError,)):
            data: bytes = self._fs.cat_file(self._path(name), start=begin, end=end)
        return data

    def validator(self, name: str) -> str:
        """A text that changes when a file does: an object store's ETag, else the time of its last change.

        Raises:
            FileNotFoundError: there is none of that name.
            StorageError: the answer can't be had.
        """
        with as_storage_errors(f"{self.uri}/{name} can't be looked up", (FileNotFoundError,)):
            info = self._fs.info(self._path(name))
        found = (info.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "created"))
        return next((str(value) for value in found if value), "")

    def exists(self, name: str) -> bool:
        """Return True if a file of that name exists.

        Raises:
            StorageError: the answer can't be had.
        """
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """The size of a file in bytes, ``None`` where there is none of that name.

        Raises:
            StorageError: the answer can't be had.
        """
        with (
            contextlib.suppress(FileNotFoundError),
            as_storage_errors(f"{self.uri}/{name} can't be looked up", (FileNotFoundError,)),
        ):
            info = self._fs.info(self._path(name))
            return int(info["size"]) if info["type"] == "file" else None
        return None

    def names(self, folder: str) -> list[str]:
        """The names of the files directly in ``folder``, sorted; none where the folder is missing.

        Raises:
            StorageError: it can't be listed.
        """
        listing: list[str] = []
        with (
            contextlib.suppress(FileNotFoundError),
            as_storage_errors(f"{self.uri}/{folder} can't be listed", (FileNotFoundError,)),
        ):
            listing = self._fs.ls(self._path(folder), detail=False)
        found = (entry.rstrip("/").rsplit("/", 1)[-1] for entry in listing)
        return sorted(name for name in found if not name.startswith("."))

    def walk(self, folder: str = "") -> Iterator[StoredFile]:
        """Every file below ``folder``, or of all, hidden ones too, in no order; none where the folder is missing.

        Raises:
            StorageError: it can't be listed.
        """
        with as_storage_errors(f"{self.uri}/{folder} can't be listed"):
            path = self._path(folder) if folder else self.root
            found = self._walk_local(path) if self.is_local else self._walk_remote(path)
            yield from found

    def create(self, name: str, data: bytes) -> None:
        """Write a new file, whole or not at all; of many racing writers exactly one succeeds.

        Raises:
            FileExistsError: the name is taken.
            StorageError: it can't be written.
        """
        path = self._path(name)
        with as_storage_errors(f"{self.uri}/{name} can't be written", (FileExistsError,)):
            if self.is_local:
                local.create(Path(path), data)
            else:
                self._create_remote(path, data)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all; an existing one is replaced.

        Raises:
            StorageError: it can't be written.
        """
        with as_storage_errors(f"{self.uri}/{name} can't be written"), self._writing(name, len(data)) as write:
            write(data)

    def upload(
        self, source: Path, name: str, digest: Digest | None = None, *, part: tuple[int, int] | None = None
    ) -> None:
        """Copy a local file to ``name``, whole or not at all; an existing one is replaced.

        Args:
            digest: required digest of its bytes; they are hashed while they are copied.
            part: offsets where the bytes to copy begin and end; by default all are copied.

        Raises:
            InputError: the bytes have another digest; nothing was stored.
            StorageError: it can't be read or written.
        """
        hasher = hashlib.sha256()
        with as_storage_errors(f"{source} can't be copied to {self.uri}/{name}"):
            begin, end = part or (0, source.stat().st_size)
            with self._writing(name, end - begin) as write:
                for piece in read_part(source, begin, end):
                    hasher.update(piece)
                    write(piece)
                if digest is not None and hasher.hexdigest() != digest.hex:
                    raise InputError(
                        f"{source} changed while it was read.", hint="Let what writes to it end, then retry."
                    )

    def download(self, name: str, target: Path) -> None:
        """Copy a file to the local path ``target``.

        Raises:
            FileNotFoundError: there is none of that name.
            StorageError: it can't be read, or ``target`` can't be written.
        """
        with as_storage_errors(f"{self.uri}/{name} can't be copied to {target}", (FileNotFoundError,)):
            self._fs.get_file(self._path(name), os.fspath(target))

    def remove(self, name: str) -> None:
        """Delete a file; one that is missing is fine.

        Raises:
            StorageError: it can't be deleted.
        """
        with (
            contextlib.suppress(FileNotFoundError),
            as_storage_errors(f"{self.uri}/{name} can't be deleted", (FileNotFoundError,)),
        ):
            self._fs.rm_file(self._path(name))

    def _walk_local(self, root: str) -> Iterator[StoredFile]:
        for current, _, files in os.walk(root, onerror=_unless_missing):
            for file in files:
                path = Path(current, file)
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    found = path.lstat()
                    modified = dt.datetime.fromtimestamp(found.st_mtime, dt.UTC)
                    yield StoredFile(path.relative_to(self.root).as_posix(), found.st_size, modified)

    def _walk_remote(self, root: str) -> Iterator[StoredFile]:
        for path, info in self._fs.find(root, detail=True).items():
            if info["type"] != "file":  # what s3fs finds of a folder whose last file was removed just now
                continue
            try:
                modified = info.get("LastModified") or self._fs.modified(path)
            except (FileNotFoundError, IsADirectoryError):  # removed since it was listed
                continue
            yield StoredFile(path[len(self.root) :].lstrip("/"), int(info["size"]), modified.astimezone(dt.UTC))

    def _create_remote(self, path: str, data: bytes) -> None:
        for _ in range(_MAX_CONFLICTS):
            try:
                self._fs.pipe_file(path, data, mode="create")
            except OSError as error:
                # https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html: 412 is a lost race,
                # 409 one that the store did not decide and wants to be asked again about.
                if store_code(error) == "PreconditionFailed":
                    raise FileExistsError(path) from error
                if store_code(error) != "ConditionalRequestConflict":
                    raise
            else:
                return
        raise OSError(f"{_MAX_CONFLICTS} times another writer was at it")

    @contextlib.contextmanager
    def _writing(self, name: str, size_bytes: int) -> Iterator[Callable[[bytes], object]]:
        """A function that takes pieces; the file appears when the block ends, and not at all when it fails."""
        path = self._path(name)
        if self.is_local:
            with local.writing(Path(path)) as file:
                yield file.write
        elif size_bytes <= _PART_BYTES:
            buffer = io.BytesIO()
            yield buffer.write
            self._fs.pipe_file(path, buffer.getvalue())
        else:
            block = max(_PART_BYTES, size_bytes // _MAX_PARTS)
            upload = self._fs.open(path, "wb", autocommit=False, block_size=block)
            try:
                yield upload.write
                upload.close()  # sends the last part; the object appears with the commit
                upload.commit()
            except BaseException:  # Ctrl-C too: the store keeps, and bills, parts that nobody discards
                upload.closed = True
                with contextlib.suppress(Exception):  # what went wrong first is what matters
                    upload.discard()
                raise

    def _path(self, name: str) -> str:
        parts = name.split("/")
        if name.startswith("/") or "\0" in name or any(part in {"", ".", ".."} for part in parts):
            raise InputError(f"{name!r} is no name below {self.uri}.", hint="Use relative names without '..'.")
        return f"{self.root.rstrip('/')}/{name}"

    def __reduce__(self) -> tuple[type[Location], tuple[str]]:
        return Location, (self.uri,)

    def __repr__(self) -> str:
        return f"Location({self.uri!r})"


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
