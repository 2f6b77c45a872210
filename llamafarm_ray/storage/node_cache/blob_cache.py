"""The blobs of a node's cache: each downloaded once however many wait for it, a killed download continued.

A blob that was compressed comes back when it is linked again.

Nothing here is synced to disk. Every pull hashes what it finds, so what a power cut takes is downloaded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from io import RawIOBase
from pathlib import Path

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.storage.failures import NO_SPACE
from llamafarm_ray.storage.locks import exclusive, try_exclusive
from llamafarm_ray.storage.manifest import FileEntry, file_digest
from llamafarm_ray.storage.node_cache.compression import LEAST_SAVED, SUFFIX, compress, expanded, is_compressed_form
from llamafarm_ray.storage.ranges import PIECE_BYTES
from llamafarm_ray.types import Digest

__all__ = ["BlobCache", "Source", "is_sound"]

Source = Callable[[FileEntry, int], Iterator[bytes]]
"""The bytes of an entry's blob in the home, from an offset on."""

_STALE_S = 24 * 3600


class BlobCache:
    """The folders ``blobs/``, ``partial/`` and the blobs' locks in a cache."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._partial = folder / "partial"
        self._locks = folder / "locks"

    def link(self, entry: FileEntry, target: Path, source: Source) -> None:
        """Make ``target`` a link to an entry's blob, replacing an existing file; download the blob if needed.

        Raises:
            IntegrityError: the blob in the home has other bytes than its digest says.
            OSError: the cache can't be written.
        """
        blob = self._blobs / entry.digest.hex
        with exclusive(self._lock(entry.digest.hex)):
            if not (is_sound(blob, entry) or self._expand(entry, blob)):
                self._download(entry, blob, source)
            _link(blob, target)

    def adopt(self, entry: FileEntry, file: Path, target: Path) -> None:
        """Make ``target`` a link to an entry's blob; where there is none, a file that was checked becomes the blob.

        Raises:
            OSError: the cache can't be written.
        """
        blob = self._blobs / entry.digest.hex
        with exclusive(self._lock(entry.digest.hex)):
            if not is_sound(blob, entry):
                _link(file, blob)
                blob.chmod(0o444)
            _link(blob, target)

    def link_sound(self, entry: FileEntry, target: Path) -> bool:
        """Make ``target`` a link to an entry's blob; return False where that is missing or damaged.

        Raises:
            OSError: the cache can't be written.
        """
        blob = self._blobs / entry.digest.hex
        if not (blob.exists() or _packed(blob).exists()):
            return False
        with exclusive(self._lock(entry.digest.hex)):
            if is_right := is_sound(blob, entry) or self._expand(entry, blob):
                _link(blob, target)
            return is_right

    def link_compressed(self, entry: FileEntry, target: Path) -> bool:
        """Make ``target`` a link to a blob's compressed form, made where needed; False where that saves too little.

        Raises:
            OSError: the cache can't be written.
        """
        blob = self._blobs / entry.digest.hex
        packed = _packed(blob)
        with exclusive(self._lock(packed.name)):
            if not packed.exists() and not self._compress(entry, blob, packed):
                return False
            _link(packed, target)
            return True

    def path(self, digest: Digest) -> Path:
        """The file of a blob, which may not be there."""
        return self._blobs / digest.hex

    def num_links(self, digest: Digest) -> int:
        """The number of files of versions that a blob is."""
        try:
            return self.path(digest).stat().st_nlink - 1
        except FileNotFoundError:
            return 0

    def size_bytes(self) -> int:
        """The bytes on disk, those of unfinished downloads too."""
        return sum(found.st_size for folder in (self._blobs, self._partial) for _, found in _files(folder))

    def drop_unused(self) -> None:
        """Delete the blobs that no version links to, and downloads that were idle for a day."""
        unlinked = [path for path, found in _files(self._blobs) if found.st_nlink == 1]
        stale = [path for path, found in _files(self._partial) if time.time() - found.st_mtime > _STALE_S]
        for path in [*unlinked, *stale]:
            with try_exclusive(self._lock(path.name)) as free, contextlib.suppress(FileNotFoundError):
                if free and path.stat().st_nlink == 1:  # as it was, or another went first
                    path.unlink()

    def _lock(self, name: str) -> Path:
        return self._locks / f"{name}.blob"

    def _compress(self, entry: FileEntry, blob: Path, packed: Path) -> bool:
        """Write a blob's compressed form; its bytes are hashed as they will come back."""
        partial = self._partial / packed.name
        self._partial.mkdir(parents=True, exist_ok=True)
        try:
            compress(blob, partial)
            saves = partial.stat().st_size <= entry.size_bytes * (1 - LEAST_SAVED)
            if is_good := saves and is_compressed_form(partial, entry.digest):
                partial.chmod(0o444)
                partial.replace(packed)
            return is_good
        finally:
            partial.unlink(missing_ok=True)

    def _expand(self, entry: FileEntry, blob: Path) -> bool:
        """Write a blob from its compressed form; False where there is none, or it is damaged and goes."""
        packed = _packed(blob)
        if not packed.exists():
            return False
        try:
            self._download(entry, blob, lambda _, start: expanded(packed, start))
        except IntegrityError:
            packed.unlink(missing_ok=True)
            return False
        return True

    def _download(self, entry: FileEntry, blob: Path, source: Source) -> None:
        """Fetch a blob in one pass: every piece is hashed on its way to the disk."""
        partial = self._partial / entry.digest.hex
        self._partial.mkdir(parents=True, exist_ok=True)
        self._blobs.mkdir(exist_ok=True)
        try:
            with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", buffering=0) as file:
                resumed = partial.stat().st_size
                if not (self._fill(file, entry, source, keep=True) or (resumed and self._fill(file, entry, source))):
                    partial.unlink()
                    raise IntegrityError(
                        f"The blob {entry.digest} ({entry.path}) was changed in the store.",
                        hint="Restore it from a backup, or remove it and publish the same files again.",
                    )
            partial.replace(blob)
            blob.chmod(0o444)
        except OSError as error:
            if error.errno in NO_SPACE:  # what is kept would keep the disk full
                partial.unlink(missing_ok=True)
            raise

    @staticmethod
    def _fill(file: RawIOBase, entry: FileEntry, source: Source, *, keep: bool = False) -> bool:
        """Write an entry's bytes, after kept ones if there are any; return True if they have its digest."""
        hasher = hashlib.sha256()
        file.seek(0)
        while keep and (piece := file.read(PIECE_BYTES)):
            hasher.update(piece)
        done = file.tell()
        if os.fstat(file.fileno()).st_size > done:  # else ext4 would write a truncated file out when it is closed
            file.truncate()
        if done < entry.size_bytes or not done:
            for piece in source(entry, done):  # hashing in a thread of its own was measured, and is slower
                hasher.update(piece)
                _write(file, piece)
                done += len(piece)
                if done > entry.size_bytes:
                    return False
        return done == entry.size_bytes and hasher.hexdigest() == entry.digest.hex


def _packed(blob: Path) -> Path:
    """The place of a blob's compressed form."""
    return blob.with_name(f"{blob.name}{SUFFIX}")


def _link(file: Path, target: Path) -> None:
    """Make ``target`` another name of a file, replacing an existing one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    linked = target.with_name(".linked")  # hidden, so no entry's name
    linked.unlink(missing_ok=True)
    os.link(file, linked)
    linked.replace(target)
    linked.unlink(missing_ok=True)  # a rename between two links to one file does nothing


def _write(file: RawIOBase, piece: bytes) -> None:
    """Write all of a piece, which an unbuffered file need not do at once."""
    written = file.write(piece) or 0
    while written < len(piece):
        written += file.write(piece[written:]) or 0


def is_sound(path: Path, entry: FileEntry) -> bool:
    """Return True if a file exists, is plain, and has the entry's bytes."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size_bytes:
            return False
        return file_digest(path) == entry.digest
    return False


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of a folder that others delete from at the same time."""
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()
