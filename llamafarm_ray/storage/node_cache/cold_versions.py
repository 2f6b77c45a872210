"""Cold versions of a node's cache: unused for a while, and compressed until their next use."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import BinaryIO

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.storage.locks import try_exclusive
from llamafarm_ray.storage.manifest import FileEntry, Manifest
from llamafarm_ray.storage.node_cache.blob_cache import BlobCache, is_sound
from llamafarm_ray.storage.node_cache.cache_layout import CacheLayout, remove_folder
from llamafarm_ray.storage.node_cache.compression import (
    LEAST_SAVED,
    SUFFIX,
    estimated_bytes,
    is_compressed_form,
    open_compressed,
)
from llamafarm_ray.types import Digest

__all__ = ["ColdVersions"]

_SMALLEST_BYTES = 64 * 1024
"""Smaller files stay as they are."""


class ColdVersions:
    """The compressed versions of a cache.

    Files that are compressed are those that only cold versions have; the others stay as they are.
    """

    def __init__(self, layout: CacheLayout, blobs: BlobCache) -> None:
        self._at = layout
        self._blobs = blobs

    def estimate(self, digests: Sequence[Digest]) -> list[tuple[Digest, int]]:
        """Return the bytes that compressing each of some versions would free, about, if all of them are.

        Raises:
            OSError: a file can't be read.
        """
        left, found = self._only_of(digests), []
        for digest in digests:
            manifest = self._at.read_manifest(digest)
            mine = {one for one in _entries(manifest) if one.digest in left} if manifest else set()
            left -= {one.digest for one in mine}
            sizes = [(one.size_bytes, estimated_bytes(self._blobs.path(one.digest))) for one in mine]
            found.append((digest, sum(size - packed for size, packed in sizes if packed <= size * (1 - LEAST_SAVED))))
        return found

    def compress(self, digest: Digest, among: Sequence[Digest]) -> int | None:
        """Compress a version, unless it is in use or pinned.

        Args:
            among: the version and the others that are compressed in the same go, with which it may share files.

        Returns:
            bytes that are free again; 0 where compressing saves nothing, ``None`` for a version that has to stay as it
            is: it is in use, pinned or damaged.

        Raises:
            OSError: the cache can't be written.
        """
        with try_exclusive(self._at.fill(digest)) as free:
            manifest = self._at.read_manifest(digest)
            if not free or manifest is None or not self._at.version(digest).is_dir():
                return None
            partial = self._at.cold(digest).with_name(f".{digest.hex}")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            try:
                freed = self._pack(manifest, self._only_of(among), partial)
                if not freed:
                    return 0
                return freed if self._swap(digest) else None
            except IntegrityError:  # of the cache's copy, which the next pull mends
                return None
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                self._blobs.drop_unused()

    def is_sound(self, manifest: Manifest) -> bool:
        """Return True if every byte of a compressed version is right.

        Raises:
            OSError: it can't be read.
        """
        return all(self._is_right(self._at.cold(manifest.digest), entry) for entry in _entries(manifest))

    def open(self, digest: Digest, entry: FileEntry) -> BinaryIO:
        """Open a file of a compressed version for reading from its front.

        Raises:
            OSError: it can't be read.
        """
        folder = self._at.cold(digest)
        packed = folder / f"{entry.digest.hex}{SUFFIX}"
        if packed.exists():
            return io.BufferedReader(open_compressed(packed))  # type: ignore[type-var]
        return (folder / entry.digest.hex).open("rb")

    def _swap(self, digest: Digest) -> bool:
        """Put a version's compressed files in the place of its plain ones; False if it is in use, pinned or gone."""
        plain, cold = self._at.version(digest), self._at.cold(digest)
        with try_exclusive(self._at.in_use(digest)) as unused:
            if not unused or self._at.pin(digest).exists() or not plain.is_dir():
                return False
            shutil.rmtree(cold, ignore_errors=True)
            cold.with_name(f".{cold.name}").rename(cold)
            remove_folder(plain)
            return True

    def _is_right(self, folder: Path, entry: FileEntry) -> bool:
        packed = folder / f"{entry.digest.hex}{SUFFIX}"
        if packed.exists():
            return is_compressed_form(packed, entry.digest)
        return is_sound(folder / entry.digest.hex, entry)

    def _pack(self, manifest: Manifest, only: Collection[Digest], folder: Path) -> int:
        """Link a version's blobs into a folder, compressed where that saves; return the bytes that it saves."""
        freed = 0
        folder.mkdir(parents=True)
        for entry in _entries(manifest):
            target = folder / f"{entry.digest.hex}{SUFFIX}"
            if entry.digest in only and self._blobs.link_compressed(entry, target):
                freed += entry.size_bytes - target.stat().st_size
            elif not self._blobs.link_sound(entry, folder / entry.digest.hex):
                raise IntegrityError(f"The blob {entry.digest} ({entry.path}) is damaged in the cache.")
        return freed

    def _only_of(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return the blobs of some size that no other version has a file of."""
        manifests = [found for digest in digests if (found := self._at.read_manifest(digest))]
        entries = [entry for found in manifests for entry in found.files if entry.size_bytes >= _SMALLEST_BYTES]
        links = Counter(entry.digest for entry in entries)
        return {one for one, number in links.items() if self._blobs.num_links(one) <= number}


def _entries(manifest: Manifest) -> set[FileEntry]:
    """Return one entry for each of a version's blobs."""
    return {*{entry.digest: entry for entry in manifest.files}.values()}
