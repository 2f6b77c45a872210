"""The content store: each file once, by its digest; published blobs first, manifest last; verified when pulled."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from llamafarm_ray.errors import IntegrityError, StorageError
from llamafarm_ray.storage.location import Location
from llamafarm_ray.storage.manifest import FileEntry, Manifest, file_digest
from llamafarm_ray.types import Digest

__all__ = ["ContentStore"]


class ContentStore:
    """Blobs and manifests below a home, and a node-local cache of unpacked versions.

    Args:
        home: where they last; ``blobs/`` and ``manifests/`` are made below it.
        cache: a local folder shared by the processes of a node. For a local home it defaults to ``cache/`` in it,
            else to ``$LLAMAFARM_CACHE`` or ``~/.cache/llamafarm``.
    """

    def __init__(self, home: Location, cache: Path | None = None) -> None:
        self._home = home
        if cache is None:
            default = Path(home.root, "cache") if home.is_local else Path("~/.cache/llamafarm")
            cache = Path(os.environ.get("LLAMAFARM_CACHE", default))
        self.cache = cache.expanduser()

    def publish(self, folder: Path) -> Manifest:
        """Store a folder's files. What is stored already is not written again; a crash leaves no half version.

        Raises:
            InputError: the folder is unusable, see :meth:`Manifest.of_folder`.
            StorageError: the home can't be written.
        """
        manifest = Manifest.of_folder(folder)
        for entry in manifest.files:
            if not self._home.exists(_blob(entry.digest)):
                self._home.upload(folder / entry.path, _blob(entry.digest))
        name = _manifest(manifest.digest)
        if not self._home.exists(name):
            with contextlib.suppress(FileExistsError):  # another writer published it: the same bytes by construction
                self._home.create(name, manifest.to_bytes())
        return manifest

    def manifest(self, digest: Digest) -> Manifest:
        """The manifest of that digest.

        Raises:
            IntegrityError: it is missing, or its bytes have another digest.
        """
        try:
            data = self._home.read(_manifest(digest))
        except FileNotFoundError:
            raise IntegrityError(f"The manifest {digest} is missing from {self._home.uri}.") from None
        if Digest.of(data) != digest:
            raise IntegrityError(f"The manifest {digest} in {self._home.uri} was changed: its digest is another.")
        return Manifest.from_bytes(data)

    def pull(self, digest: Digest) -> Path:
        """The local folder with a version's files, every byte verified, made by one rename.

        Raises:
            IntegrityError: a blob is missing or its bytes have another digest.
            StorageError: the home can't be read or the cache not be written.
        """
        target = self.cache / "versions" / digest.hex
        if target.is_dir():
            return target
        manifest = self.manifest(digest)
        partial = target.with_name(f".{digest.hex}.{secrets.token_hex(6)}")
        try:
            partial.mkdir(parents=True)
            for entry in manifest.files:
                self._fetch(entry, partial / entry.path)
            try:
                partial.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was faster
                    raise
        except OSError as error:
            raise StorageError(f"The cache {self.cache} can't be written: {error}.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def _fetch(self, entry: FileEntry, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._home.download(_blob(entry.digest), path)
        except FileNotFoundError:
            raise IntegrityError(f"The blob {entry.digest} ({entry.path}) is missing from {self._home.uri}.") from None
        if file_digest(path) != entry.digest:
            raise IntegrityError(f"The blob {entry.digest} ({entry.path}) in {self._home.uri} was changed.")


def _blob(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex[:2]}/{digest.hex}"


def _manifest(digest: Digest) -> str:
    return f"manifests/sha256/{digest.hex}.json"
