"""Paths below a node-local cache.

::

    blobs/<hex>          each file once, read-only; <hex>.zst one that is compressed
    versions/<hex>/      a version's files, hard links to the blobs
    cold/<hex>/          a version that is compressed: hard links to its blobs, by their names
    manifests/<hex>.json what belongs into a version
    partial/<hex>        unfinished downloads
    locks/               <hex>.lock a version in use, <hex>.fill one being filled, <hex>.blob a blob being downloaded
    pins/<hex>           versions that stay

Only these folders are touched; whatever else lies beside them is others'.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.storage.local import write_whole
from llamafarm_ray.storage.locks import try_exclusive
from llamafarm_ray.storage.manifest import Manifest
from llamafarm_ray.types import Digest

__all__ = ["CacheLayout", "listing", "remove_folder", "remove_unlisted"]

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The paths of versions in a cache's folder."""

    folder: Path

    def version(self, digest: Digest) -> Path:
        """Return the folder of a version's files."""
        return self.folder / "versions" / digest.hex

    def cold(self, digest: Digest) -> Path:
        """Return the folder of a version that is compressed."""
        return self.folder / "cold" / digest.hex

    def manifest(self, digest: Digest) -> Path:
        """Return the file of a version's manifest."""
        return self.folder / "manifests" / f"{digest.hex}.json"

    def pin(self, digest: Digest) -> Path:
        """Return the file that keeps a version."""
        return self.folder / "pins" / digest.hex

    def in_use(self, digest: Digest) -> Path:
        """Return the lock that the users of a version share; its time is that of the last use."""
        return self.folder / "locks" / f"{digest.hex}.lock"

    def fill(self, digest: Digest) -> Path:
        """Return the lock for making a version's folder."""
        return self.folder / "locks" / f"{digest.hex}.fill"

    def place(self, digest: Digest) -> Path | None:
        """Return the folder that a version is in, compressed or not; ``None`` if it isn't there."""
        return next((one for one in (self.version(digest), self.cold(digest)) if one.is_dir()), None)

    def versions(self) -> set[Digest]:
        """Return the versions that are there, compressed or not."""
        return _digests(self.folder / "versions") | _digests(self.folder / "cold")

    def pinned(self) -> set[Digest]:
        """Return the versions that are pinned."""
        return _digests(self.folder / "pins")

    def read_manifest(self, digest: Digest) -> Manifest | None:
        """Return a version's manifest; ``None`` where it is missing or damaged."""
        with contextlib.suppress(FileNotFoundError, IntegrityError):
            data = self.manifest(digest).read_bytes()
            return Manifest.from_bytes(data) if Digest.of(data) == digest else None
        return None

    def write_manifest(self, manifest: Manifest) -> None:
        """Write a version's manifest, whole or not at all."""
        write_whole(self.manifest(manifest.digest), manifest.to_bytes())

    def drop_unfinished(self) -> None:
        """Delete the folders of processes that were killed, whose links keep blobs from being deleted."""
        for folder in self._unfinished():
            with try_exclusive(self.folder / "locks" / f"{folder.name[1:]}.fill") as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)

    def _unfinished(self) -> Iterator[Path]:
        for sort in ("versions", "cold"):
            yield from (self.folder / sort).glob(".*")


def remove_folder(folder: Path) -> None:
    """Delete a version's folder; its name is free at once, and its hidden one is cleared away by the next call."""
    gone = folder.with_name(f".{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)  # two may clear it away


def listing(folder: Path) -> set[str]:
    """Return the names of everything below a folder that is no folder."""
    found = set()
    for current, folders, files in os.walk(folder):
        links = [name for name in folders if Path(current, name).is_symlink()]
        found |= {Path(current, name).relative_to(folder).as_posix() for name in [*files, *links]}
    return found


def remove_unlisted(folder: Path, manifest: Manifest) -> None:
    """Delete what does not belong into a version's folder, and folders where its files should be."""
    wanted = {entry.path for entry in manifest.files}
    for name in listing(folder) - wanted:
        (folder / name).unlink()
    for name in wanted:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)


def _digests(folder: Path) -> set[Digest]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return {Digest(f"sha256:{name}") for name in names if _HEX.fullmatch(name)}
