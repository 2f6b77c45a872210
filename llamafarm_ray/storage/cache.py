"""The node-local cache of unpacked versions, shared by the processes of a node.

::

    blobs/<hex>          each file once, read-only
    versions/<hex>/      a version's files, hard links to the blobs
    manifests/<hex>.json what belongs into a version
    partial/<hex>        unfinished downloads
    locks/               <hex>.lock a version in use, <hex>.fill one being filled, <hex>.blob a blob being downloaded
    pins/<hex>           versions that stay

Only these folders are touched; whatever else lies beside them is others'.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import IntegrityError, StorageError
from llamafarm_ray.storage.blob_cache import BlobCache, Source, is_sound
from llamafarm_ray.storage.eviction import EvictionPlan, fetch_cost_s, plan, value
from llamafarm_ray.storage.locks import exclusive, hold, let_go, try_exclusive
from llamafarm_ray.storage.manifest import FileEntry, Manifest
from llamafarm_ray.types import Digest

__all__ = ["Cache", "CachedVersion", "Download"]

Download = Callable[[], AbstractContextManager[tuple[Manifest, Source]]]
"""Opens a version in the home for reading: its manifest, and where its blobs come from."""

_HASHING_THREADS = 4
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CachedVersion:
    """A version in the cache; its size in bytes counts what it shares with others."""

    digest: Digest
    size_bytes: int
    last_used: dt.datetime
    pinned: bool
    in_use: bool


class Cache:
    """A cache in a local folder.

    Args:
        folder: folder of the cache; made when the first version is pulled.
        places: the places that versions come from, see `fetch_cost_s`; by default a home elsewhere.
    """

    def __init__(self, folder: Path, places: Callable[[], Mapping[Digest, str]] = dict) -> None:
        self.folder = folder
        self._places = places
        self._blobs = BlobCache(folder)

    def pull(self, digest: Digest, download: Download) -> Path:
        """The folder of a version, every byte of it hashed by this call; filled or repaired where needed.

        From here on the version is in use by this caller, and no process evicts it until :meth:`release`.

        Raises:
            IntegrityError: the home's own copy is damaged.
            StorageError: the cache can't be written.
        """
        try:
            hold(self._in_use(digest))
            try:
                return self._checked(digest, download)
            except BaseException:
                let_go(self._in_use(digest))  # who got nothing has nothing to release
                raise
        except OSError as error:
            raise StorageError(
                f"The cache {self.folder} can't be written: {error}.",
                hint="Free space there, or name another folder in LLAMAFARM_CACHE.",
            ) from error

    def adopt(self, folder: Path, manifest: Manifest) -> Path:
        """The folder of a version whose files, checked just now, are in a folder of the cache's own file system.

        Nothing is copied: the files get other names. The version is in use, as after :meth:`pull`.

        Raises:
            StorageError: the cache can't be written.
        """
        digest = manifest.digest
        hold(self._in_use(digest))
        try:
            with exclusive(self._lock(digest, "fill")):
                if not (self._version(digest).is_dir() and self._is_sound(digest)):
                    self._fill(manifest, lambda entry, target: self._blobs.adopt(entry, folder / entry.path, target))
        except OSError as error:
            let_go(self._in_use(digest))
            raise StorageError(
                f"The cache {self.folder} can't be written: {error}.",
                hint="Free space there, or name another folder in LLAMAFARM_CACHE.",
            ) from error
        return self._version(digest)

    def use(self, digest: Digest) -> Path | None:
        """The folder of a version that is there, in use as after :meth:`pull`, unchecked; ``None`` where it isn't.

        Raises:
            OSError: the cache can't be written.
        """
        hold(self._in_use(digest))
        if (folder := self._version(digest)).is_dir():
            return folder
        let_go(self._in_use(digest))
        return None

    def has(self, digest: Digest) -> bool:
        """Return True if a version is there; it may be evicted at any time."""
        return self._version(digest).is_dir()

    def folder_of(self, digest: Digest) -> Path:
        """The folder of a version, which may be evicted at any time, or not be there."""
        return self._version(digest)

    def link_blob(self, digest: Digest, size_bytes: int, target: Path) -> bool:
        """Make ``target`` a link to a blob; return False where that is missing or damaged.

        Raises:
            OSError: the cache can't be written.
        """
        return self._blobs.link_sound(FileEntry(target.name, size_bytes, digest, ""), target)

    def is_sound(self, digest: Digest) -> bool:
        """Return True if a version is there and every byte of it is right.

        Raises:
            StorageError: it can't be read.
        """
        try:
            return self._version(digest).is_dir() and self._is_sound(digest)
        except OSError as error:
            raise StorageError(f"{self._version(digest)} can't be read: {error}.") from error

    def release(self, digest: Digest) -> None:
        """End one caller's use of a version; with the last one's it may be evicted."""
        let_go(self._in_use(digest))

    def pin(self, digest: Digest) -> None:
        """Never evict a version, whether it is there yet or not."""
        pin = self._pin(digest)
        pin.parent.mkdir(parents=True, exist_ok=True)
        pin.touch()

    def unpin(self, digest: Digest) -> None:
        """End a pin; nothing where there is none."""
        self._pin(digest).unlink(missing_ok=True)

    def pinned(self) -> set[Digest]:
        """The versions that are pinned."""
        return _digests(self.folder / "pins")

    def cached(self) -> list[CachedVersion]:
        """The versions that are there, the least recently used first."""
        pinned = self.pinned()
        found = [self._describe(digest, pinned=digest in pinned) for digest in _digests(self.folder / "versions")]
        return sorted(found, key=lambda version: (version.last_used, version.digest))

    def evictable(self, max_bytes: int, kept: Collection[Digest] = frozenset()) -> EvictionPlan:
        """Return the versions that :meth:`evict` would delete now, and how much of the disk that frees."""
        return plan(self._free_to_go(kept), self._blobs.size_bytes(), max_bytes)

    def removable(self, digests: Sequence[Digest], kept: Collection[Digest] = frozenset()) -> EvictionPlan:
        """Return those of some versions that can be deleted now, and how much of the disk that frees."""
        return plan([one for one in self._free_to_go(kept) if one[0] in digests], 0, -1)

    def evict(self, max_bytes: int, kept: Collection[Digest] = frozenset()) -> list[Digest]:
        """Delete the least valuable versions until the cache has at most ``max_bytes``, as far as that goes.

        Value is the time that a byte saves, less the longer it was not used, see `value`. Versions that are pinned, or
        in use by any process, stay; a blob goes with the last version that links to it.

        Args:
            max_bytes: greatest number of bytes that stay.
            kept: versions that stay too.

        Returns:
            the evicted versions, in the order of their going.

        Raises:
            StorageError: the cache can't be written.
        """
        candidates = (one.digest for one in self._by_value() if one.digest not in kept)
        return self.evict_these(candidates, max_bytes)

    def _by_value(self) -> list[CachedVersion]:
        """Return the versions that are there, the least valuable first."""
        now, places = dt.datetime.now(dt.UTC), self._places()

        def worth(one: CachedVersion) -> float:
            cost_s = fetch_cost_s(places.get(one.digest, "home"), one.size_bytes)
            return value(cost_s, one.size_bytes, (now - one.last_used).total_seconds())

        return sorted(self.cached(), key=worth)

    def evict_these(self, digests: Iterable[Digest], max_bytes: int = -1) -> list[Digest]:
        """Delete versions in that order until the cache has at most ``max_bytes``; the rest is as for :meth:`evict`."""
        evicted: list[Digest] = []
        try:
            self._drop_unfinished()
            self._blobs.drop_unused()
            for digest in digests:
                if self._blobs.size_bytes() <= max_bytes:
                    break
                if self._evict(digest):
                    self._blobs.drop_unused()
                    evicted.append(digest)
        except OSError as error:
            raise StorageError(f"The cache {self.folder} can't be cleaned: {error}.") from error
        return evicted

    def _free_to_go(self, kept: Collection[Digest]) -> list[tuple[Digest, Path]]:
        free = (one for one in self._by_value() if not (one.pinned or one.in_use or one.digest in kept))
        return [(one.digest, self._version(one.digest)) for one in free]

    def _checked(self, digest: Digest, download: Download) -> Path:
        folder = self._version(digest)
        broken = False
        while True:
            if folder.is_dir():
                if self._is_sound(digest):
                    return folder
                broken = True
            with exclusive(self._lock(digest, "fill")):
                if folder.is_dir() and not broken:
                    continue  # filled while this one waited: many may check it at once
                with download() as (manifest, source):
                    self._fill(manifest, functools.partial(self._blobs.link, source=source))
                return folder

    def _is_sound(self, digest: Digest) -> bool:
        manifest, folder = self._manifest(digest), self._version(digest)
        if manifest is None or _listing(folder) != {entry.path for entry in manifest.files}:
            return False
        with ThreadPoolExecutor(_HASHING_THREADS) as pool:
            return all(pool.map(lambda entry: is_sound(folder / entry.path, entry), manifest.files))

    def _manifest(self, digest: Digest) -> Manifest | None:
        with contextlib.suppress(FileNotFoundError, IntegrityError):
            data = self._manifest_path(digest).read_bytes()
            return Manifest.from_bytes(data) if Digest.of(data) == digest else None
        return None

    def _fill(self, manifest: Manifest, link: Callable[[FileEntry, Path], None]) -> None:
        """Make a version's folder by one rename, or mend the one that is there file by file: it may be in use."""
        digest = manifest.digest
        folder = self._version(digest)
        partial = folder.with_name(f".{digest.hex}")
        self._write_manifest(digest, manifest)
        if folder.is_dir():
            _remove_unlisted(folder, manifest)
            for entry in manifest.files:
                if not is_sound(folder / entry.path, entry):
                    link(entry, folder / entry.path)
            return
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        try:
            partial.mkdir(parents=True)
            for entry in manifest.files:
                link(entry, partial / entry.path)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write_manifest(self, digest: Digest, manifest: Manifest) -> None:
        path = self._manifest_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        partial.write_bytes(manifest.to_bytes())
        partial.replace(path)

    def _evict(self, digest: Digest) -> bool:
        with try_exclusive(self._in_use(digest)) as free:
            folder = self._version(digest)
            if not free or self._pin(digest).exists() or not folder.is_dir():  # or another evicted it
                return False
            gone = folder.with_name(f".{digest.hex}")  # the name that the next download clears away
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)  # two may clear it away
            self._manifest_path(digest).unlink(missing_ok=True)
            return True

    def _drop_unfinished(self) -> None:
        """Delete the folders of downloads that were killed, whose links keep blobs from being deleted."""
        for folder in (self.folder / "versions").glob(".*"):
            with try_exclusive(self.folder / "locks" / f"{folder.name[1:]}.fill") as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)

    def _describe(self, digest: Digest, *, pinned: bool) -> CachedVersion:
        manifest = self._manifest(digest)
        lock = self._in_use(digest)
        with try_exclusive(lock) as free:
            used = dt.datetime.fromtimestamp(lock.stat().st_mtime, dt.UTC)
            return CachedVersion(digest, manifest.size_bytes if manifest else 0, used, pinned, in_use=not free)

    def _version(self, digest: Digest) -> Path:
        return self.folder / "versions" / digest.hex

    def _manifest_path(self, digest: Digest) -> Path:
        return self.folder / "manifests" / f"{digest.hex}.json"

    def _pin(self, digest: Digest) -> Path:
        return self.folder / "pins" / digest.hex

    def _in_use(self, digest: Digest) -> Path:
        return self._lock(digest, "lock")

    def _lock(self, digest: Digest, sort: str) -> Path:
        return self.folder / "locks" / f"{digest.hex}.{sort}"


def _digests(folder: Path) -> set[Digest]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return {Digest(f"sha256:{name}") for name in names if _HEX.fullmatch(name)}


def _listing(folder: Path) -> set[str]:
    """The names of everything below a folder that is no folder."""
    found = set()
    for current, folders, files in os.walk(folder):
        links = [name for name in folders if Path(current, name).is_symlink()]
        found |= {Path(current, name).relative_to(folder).as_posix() for name in [*files, *links]}
    return found


def _remove_unlisted(folder: Path, manifest: Manifest) -> None:
    """Delete what does not belong into a version's folder, and folders where its files should be."""
    wanted = {entry.path for entry in manifest.files}
    for name in _listing(folder) - wanted:
        (folder / name).unlink()
    for name in wanted:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)
