"""The node-local cache of unpacked versions, shared by the processes of a node.

The paths are those of `CacheLayout`. A version that was compressed comes back when it is used.
"""

from __future__ import annotations

import datetime as dt
import functools
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llamafarm_ray.errors import IntegrityError, StorageError
from llamafarm_ray.storage.locks import exclusive, hold, let_go, try_exclusive
from llamafarm_ray.storage.manifest import FileEntry, Manifest
from llamafarm_ray.storage.node_cache.blob_cache import BlobCache, Source, is_sound
from llamafarm_ray.storage.node_cache.cache_layout import CacheLayout, listing, remove_folder, remove_unlisted
from llamafarm_ray.storage.node_cache.cold_versions import ColdVersions
from llamafarm_ray.storage.node_cache.eviction import EvictionPlan, fetch_cost_s, plan, value
from llamafarm_ray.types import Digest

__all__ = ["Cache", "CachedVersion", "Download"]

Download = Callable[[], AbstractContextManager[tuple[Manifest, Source]]]
"""Opens a version in the home for reading: its manifest, and where its blobs come from."""

_HASHING_THREADS = 4


@dataclass(frozen=True, slots=True)
class CachedVersion:
    """A version in the cache; its size in bytes is that of its plain files, shared ones included."""

    digest: Digest
    size_bytes: int
    last_used: dt.datetime
    pinned: bool
    in_use: bool
    is_compressed: bool = False


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
        self._at = CacheLayout(folder)
        self._cold = ColdVersions(self._at, self._blobs)

    def pull(self, digest: Digest, download: Download) -> Path:
        """The folder of a version, every byte of it hashed by this call; filled or repaired where needed.

        From here on the version is in use by this caller, and no process evicts it until :meth:`release`.

        Raises:
            IntegrityError: the home's own copy is damaged.
            StorageError: the cache can't be written.
        """
        try:
            hold(self._at.in_use(digest))
            try:
                return self._checked(digest, download)
            except BaseException:  # Ctrl-C too: a caller that got no folder releases none
                let_go(self._at.in_use(digest))
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
        hold(self._at.in_use(digest))
        try:
            with exclusive(self._at.fill(digest)):
                if not (self._at.version(digest).is_dir() and self._is_sound(digest)):
                    self._fill(manifest, lambda entry, target: self._blobs.adopt(entry, folder / entry.path, target))
        except OSError as error:
            let_go(self._at.in_use(digest))
            raise StorageError(
                f"The cache {self.folder} can't be written: {error}.",
                hint="Free space there, or name another folder in LLAMAFARM_CACHE.",
            ) from error
        return self._at.version(digest)

    def use(self, digest: Digest) -> Path | None:
        """The folder of a version that is there, in use as after :meth:`pull`, unchecked; ``None`` where it isn't.

        Raises:
            OSError: the cache can't be written.
        """
        hold(self._at.in_use(digest))
        if (folder := self._at.version(digest)).is_dir():
            return folder
        try:
            if self._at.place(digest) is not None:
                with exclusive(self._at.fill(digest)):
                    if folder.is_dir() or self._expand(digest):
                        return folder
        except BaseException:  # Ctrl-C too: a caller that got no folder releases none
            let_go(self._at.in_use(digest))
            raise
        let_go(self._at.in_use(digest))
        return None

    def has(self, digest: Digest) -> bool:
        """Return True if a version is there, compressed or not; it may be evicted at any time."""
        return self._at.place(digest) is not None

    def folder_of(self, digest: Digest) -> Path | None:
        """The folder of a version, which may be evicted at any time; ``None`` where it is compressed or not there."""
        folder = self._at.version(digest)
        return folder if folder.is_dir() else None

    def manifest(self, digest: Digest) -> Manifest | None:
        """The manifest of a version that is there; ``None`` where it is damaged."""
        return self._at.read_manifest(digest)

    def open(self, digest: Digest, entry: FileEntry) -> BinaryIO:
        """Open a version's file for reading from its front, while it may be compressed or evicted at any time.

        Raises:
            OSError: it can't be read.
        """
        try:
            return (self._at.version(digest) / entry.path).open("rb")
        except FileNotFoundError:
            return self._cold.open(digest, entry)

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
            manifest = self._at.read_manifest(digest)
            if manifest is None or self._at.version(digest).is_dir():
                return self._is_sound(digest)
            return self._at.place(digest) is not None and self._cold.is_sound(manifest)
        except OSError as error:
            raise StorageError(f"{self._at.version(digest)} can't be read: {error}.") from error

    def release(self, digest: Digest) -> None:
        """End one caller's use of a version; with the last one's it may be evicted."""
        let_go(self._at.in_use(digest))

    def pin(self, digest: Digest) -> None:
        """Never evict a version, whether it is there yet or not."""
        pin = self._at.pin(digest)
        pin.parent.mkdir(parents=True, exist_ok=True)
        pin.touch()

    def unpin(self, digest: Digest) -> None:
        """End a pin; nothing where there is none."""
        self._at.pin(digest).unlink(missing_ok=True)

    def pinned(self) -> set[Digest]:
        """The versions that are pinned."""
        return self._at.pinned()

    def cached(self) -> list[CachedVersion]:
        """The versions that are there, the least recently used first."""
        pinned = self.pinned()
        found = [self._describe(digest, pinned=digest in pinned) for digest in self._at.versions()]
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

    def compressible(self, unused_s: float, digests: Collection[Digest] | None = None) -> list[tuple[Digest, int]]:
        """Return the versions that :meth:`compress` would compress now, and about how many bytes each frees.

        Args:
            unused_s: least time since the last use, in seconds.
            digests: the versions to look at; by default all.

        Raises:
            StorageError: the cache can't be read.
        """
        try:
            return [(one, freed) for one, freed in self._cold.estimate(self._unused(unused_s, digests)) if freed]
        except OSError as error:
            raise StorageError(f"The cache {self.folder} can't be read: {error}.") from error

    def compress(self, unused_s: float, digests: Collection[Digest] | None = None) -> list[tuple[Digest, int]]:
        """Compress versions that were not used for a time, but for those that are pinned or in use by any process.

        They come back when they are used. Only one process of a node compresses at a time; another one does nothing.

        Args:
            unused_s: least time since the last use, in seconds.
            digests: the versions to look at; by default all.

        Returns:
            the versions that were compressed, and the bytes that each frees.

        Raises:
            StorageError: the cache can't be written.
        """
        try:
            with try_exclusive(self.folder / "locks" / "compress") as free:
                chosen = self._unused(unused_s, digests) if free else []
                packed = ((digest, self._cold.compress(digest, chosen)) for digest in chosen)
                return [(digest, freed) for digest, freed in packed if freed]
        except OSError as error:
            raise StorageError(f"The cache {self.folder} can't be written: {error}.") from error

    def _unused(self, unused_s: float, digests: Collection[Digest] | None) -> list[Digest]:
        before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=unused_s)
        return [
            one.digest
            for one in self.cached()
            if not (one.pinned or one.in_use or one.is_compressed)
            and one.last_used <= before
            and (digests is None or one.digest in digests)
        ]

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
            self._at.drop_unfinished()
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
        return [(one.digest, place) for one in free if (place := self._at.place(one.digest))]

    def _checked(self, digest: Digest, download: Download) -> Path:
        folder = self._at.version(digest)
        broken = False
        while True:
            if folder.is_dir():
                if self._is_sound(digest):
                    return folder
                broken = True
            with exclusive(self._at.fill(digest)):
                if not broken and (folder.is_dir() or self._expand(digest)):
                    continue  # filled while this one waited, or just now: many may check it at once
                with download() as (manifest, source):
                    self._fill(manifest, functools.partial(self._blobs.link, source=source))
                return folder

    def _is_sound(self, digest: Digest) -> bool:
        manifest, folder = self._at.read_manifest(digest), self._at.version(digest)
        if manifest is None or listing(folder) != {entry.path for entry in manifest.files}:
            return False
        with ThreadPoolExecutor(_HASHING_THREADS) as pool:
            return all(pool.map(lambda entry: is_sound(folder / entry.path, entry), manifest.files))

    def _fill(self, manifest: Manifest, link: Callable[[FileEntry, Path], None]) -> None:
        """Make a version's folder by one rename, or mend the one that is there file by file: it may be in use."""
        digest = manifest.digest
        folder = self._at.version(digest)
        partial = folder.with_name(f".{digest.hex}")
        self._at.write_manifest(manifest)
        if folder.is_dir():
            remove_unlisted(folder, manifest)
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
        if self._at.cold(digest).is_dir():
            remove_folder(self._at.cold(digest))
            self._blobs.drop_unused()

    def _expand(self, digest: Digest) -> bool:
        """Make the folder of a compressed version, of which every byte is hashed; False where there is none, or damage.

        The caller holds the lock for filling the folder.
        """
        manifest = self._at.read_manifest(digest)
        if manifest is None or not self._at.cold(digest).is_dir():
            return False
        try:
            self._fill(manifest, functools.partial(self._blobs.link, source=_nowhere))
        except IntegrityError:  # what is right in it is used by the download that follows
            remove_folder(self._at.cold(digest))
            return False
        return True

    def _evict(self, digest: Digest) -> bool:
        with try_exclusive(self._at.in_use(digest)) as free:
            if not free or self._at.pin(digest).exists() or not self.has(digest):  # or another evicted it
                return False
            for folder in (self._at.version(digest), self._at.cold(digest)):
                if folder.is_dir():
                    remove_folder(folder)
            self._at.manifest(digest).unlink(missing_ok=True)
            return True

    def _describe(self, digest: Digest, *, pinned: bool) -> CachedVersion:
        manifest = self._at.read_manifest(digest)
        lock = self._at.in_use(digest)
        with try_exclusive(lock) as free:
            used = dt.datetime.fromtimestamp(lock.stat().st_mtime, dt.UTC)
            size_bytes = manifest.size_bytes if manifest else 0
            is_compressed = not self._at.version(digest).is_dir()
            return CachedVersion(digest, size_bytes, used, pinned, in_use=not free, is_compressed=is_compressed)


def _nowhere(entry: FileEntry, _: int) -> Iterator[bytes]:
    """Say that a blob which a compressed version lacks comes from nowhere."""
    raise IntegrityError(f"The compressed copy of {entry.path} is damaged.")
