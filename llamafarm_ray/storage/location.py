"""A folder anywhere fsspec reaches, with the few operations durability is built on."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from llamafarm_ray.errors import InputError, StorageError

__all__ = ["Location"]


class Location:
    """A folder at a URI (``/data/home``, ``file://``, ``s3://bucket/home``, ``memory://``).

    Names below it are relative, with ``/`` between parts. On a local folder everything written is synced to disk
    before the call returns; on an object store a finished upload is durable by itself.

    Args:
        uri: where. ``~`` is the user's home.

    Raises:
        InputError: no installed fsspec file system understands the URI.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = os.path.expanduser(os.fspath(uri))  # noqa: PTH111  (a URI is no path)
        try:
            fs, root = fsspec.core.url_to_fs(self.uri)
        except (ValueError, ImportError) as error:
            raise InputError(f"{self.uri!r} can't be opened: {error}.", hint="Use a folder or an fsspec URI.") from None
        self._fs: Any = fs
        if isinstance(fs, LocalFileSystem):
            self.uri = root  # absolute: other processes have other current folders
        self.root: str = root.rstrip("/") or "/"

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's file system."""
        return isinstance(self._fs, LocalFileSystem)

    def child(self, name: str) -> Location:
        """The folder ``name`` below this one."""
        return Location(f"{self.uri.rstrip('/')}/{name}")

    def read(self, name: str) -> bytes:
        """The whole of a file.

        Raises:
            FileNotFoundError: there is none of that name.
            StorageError: it can't be read.
        """
        try:
            data: bytes = self._fs.cat_file(self._path(name))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"{self.uri}/{name} can't be read: {error}.") from error
        return data

    def exists(self, name: str) -> bool:
        """Whether a file of that name is there."""
        return bool(self._fs.isfile(self._path(name)))

    def names(self, folder: str) -> list[str]:
        """The names of the files directly in ``folder``, sorted; none where the folder is missing."""
        path = self._path(folder)
        self._fs.invalidate_cache(path)
        try:
            listing = self._fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        found = (entry.rstrip("/").rsplit("/", 1)[-1] for entry in listing)
        return sorted(name for name in found if not name.startswith("."))

    def create(self, name: str, data: bytes) -> None:
        """Write a new file, whole or not at all; of many racing writers exactly one succeeds.

        Raises:
            FileExistsError: the name is taken.
            StorageError: it can't be written (disk full, no permission, no such bucket).
        """
        path = self._path(name)
        try:
            if self.is_local:
                self._create_local(Path(path), data)
            else:
                self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            raise
        except OSError as error:
            raise StorageError(f"{self.uri}/{name} can't be written: {error}.") from error

    def upload(self, source: Path, name: str) -> None:
        """Copy a local file to ``name``, whole or not at all; an existing one is replaced.

        Raises:
            StorageError: it can't be written.
        """
        path = self._path(name)
        try:
            if self.is_local:
                target = Path(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
                try:
                    self._fs.cp_file(os.fspath(source), os.fspath(partial))
                    _sync(partial)
                    partial.rename(target)
                finally:
                    partial.unlink(missing_ok=True)
                _sync(target.parent)
            else:
                self._fs.put_file(os.fspath(source), path)
        except OSError as error:
            raise StorageError(f"{self.uri}/{name} can't be written: {error}.") from error

    def download(self, name: str, target: Path) -> None:
        """Copy a file to the local path ``target``.

        Raises:
            FileNotFoundError: there is none of that name.
            StorageError: it can't be read, or ``target`` can't be written.
        """
        try:
            self._fs.get_file(self._path(name), os.fspath(target))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"{self.uri}/{name} can't be copied to {target}: {error}.") from error

    @staticmethod
    def _create_local(path: Path, data: bytes) -> None:
        """A link to a synced temporary file: the name appears with all its bytes, or the call fails."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        _sync(path.parent)

    def _path(self, name: str) -> str:
        parts = name.split("/")
        if name.startswith("/") or any(part in {"", ".", ".."} for part in parts):
            raise InputError(f"{name!r} is no name below {self.uri}.", hint="Use relative names without '..'.")
        return f"{self.root}/{name}"

    def __repr__(self) -> str:
        return f"Location({self.uri!r})"


def _sync(path: Path) -> None:
    """Have the kernel write a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
