"""The content store: each file once, by its digest; published blobs first, manifest last; verified when pulled."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamafarm_ray.errors import InputError, IntegrityError, StorageError
from llamafarm_ray.storage.blobs import BLOBS_FOLDER, BlobFile, Blobs, defect
from llamafarm_ray.storage.copying import check_free, copy_folder
from llamafarm_ray.storage.leases import Leases
from llamafarm_ray.storage.local import TEMPORARY
from llamafarm_ray.storage.location import Location, StoredFile
from llamafarm_ray.storage.manifest import FileEntry, Manifest
from llamafarm_ray.storage.node_cache.blob_cache import Source
from llamafarm_ray.storage.node_cache.cache import Cache, CachedVersion
from llamafarm_ray.storage.node_cache.cache_settings import cache_limit_setting, compress_after_setting
from llamafarm_ray.types import Digest

if TYPE_CHECKING:
    from llamafarm_ray.storage.downloads.downloads import Download, Downloads, Report

__all__ = ["ContentStore", "StoredBlob"]

logger = logging.getLogger(__name__)

_MANIFESTS = "manifests/sha256"
_MANIFEST = re.compile(rf"{_MANIFESTS}/([0-9a-f]{{64}})(?:\.([1-9]\d{{0,8}}))?\.json", re.ASCII)
_LEFT_AFTER = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob or manifest in the home: which one, its size in bytes, and when it was written (UTC).

    Of a blob that is stored in chunks it is the list of them; the chunks are blobs themselves.
    """

    digest: Digest
    generation: int
    is_manifest: bool
    size_bytes: int
    modified: dt.datetime
    is_chunk_list: bool = False


class ContentStore:
    """Blobs and manifests below a home, and a node-local cache of unpacked versions.

    Bytes stored under a digest have a generation. A collector of garbage condemns one generation of a digest before it
    deletes it; a later publication of the same bytes writes the next one. So a collector that was paused can't delete
    newer files.

    A download compresses what was not used for ``$LLAMAFARM_CACHE_COMPRESS_AFTER`` (``30d``) in the cache; without the
    variable nothing is compressed by itself.

    Args:
        home: their home; ``blobs/``, ``manifests/`` and ``leases/`` are made below it.
        cache: a local folder shared by the processes of a node. By default ``$LLAMAFARM_CACHE``, else ``cache/`` in a
            local home or ``~/.cache/llamafarm``.
        generation: the generation of a digest that is read and written now.
        max_cache_bytes: size to which the cache is reduced after a pull or a download; by default
            ``$LLAMAFARM_CACHE_MAX`` (``20GB``), else nothing is evicted.
        kept: the versions that are not evicted, since something that lasts refers to them and the home has no copy.

    Raises:
        InputError: the limit is no amount of bytes, or the time no length of time.
    """

    def __init__(
        self,
        home: Location,
        cache: Path | None = None,
        *,
        generation: Callable[[Digest], int] = lambda _: 0,
        max_cache_bytes: int | None = None,
        kept: Callable[[], Collection[Digest]] = frozenset,
    ) -> None:
        self._home = home
        if cache is None:
            default = Path(home.root, "cache") if home.is_local else Path("~/.cache/llamafarm")
            cache = Path(os.environ.get("LLAMAFARM_CACHE", default))
        self.cache = cache.expanduser()
        self._generation = generation
        self._max_cache_bytes = cache_limit_setting() if max_cache_bytes is None else max_cache_bytes
        self._compress_after = compress_after_setting()
        self._cache = Cache(self.cache, self._places)
        self._kept = kept
        self._leases = Leases(home)
        self.blobs = Blobs(home, generation)

    def publish(self, folder: Path, *, is_adapter: bool = False) -> Manifest:
        """Store a folder's files. Bytes that are stored already are not written again; a crash leaves no half version.

        Large files of safetensors are stored in chunks, so that a fine-tune of a whole model shares the tensors that it
        did not change with others. All weights of an adapter change, so it is stored whole.

        Stored bytes are verified: in a local home it is hashed, and written again where it was damaged. In an
        object store, where that would be a download, only a blob's size is looked at: the store has its own checksums.

        Args:
            is_adapter: True if every weight in it must be finite. Whole models may have infinities with a meaning, such
                as those of a mask.

        Raises:
            InputError: the folder is unusable, see :meth:`Manifest.of_folder`, or changes meanwhile; or an adapter's
                weights are NaN or infinite.
            StorageError: the home can't be written.
        """
        manifest = Manifest.of_folder(folder)
        if is_adapter:
            _check_finite(folder, manifest)
        for entry in {entry.digest: entry for entry in manifest.files}.values():
            self.blobs.publish(folder / entry.path, entry, in_chunks=not is_adapter)
        self._write(self._manifest(manifest.digest), manifest.to_bytes())
        return manifest

    def publish_bytes(self, data: bytes) -> Digest:
        """Store a small blob that belongs to no manifest, and its digest.

        Raises:
            StorageError: the home can't be written.
        """
        digest = Digest.of(data)
        self._write(self.blobs.name(digest), data)
        return digest

    def read_blob(self, digest: Digest) -> bytes:
        """The whole of a small blob, verified.

        Raises:
            IntegrityError: it is missing, or its bytes have another digest.
            StorageError: the home can't be read.
        """
        return self.blobs.read(digest)

    def read_range(self, digest: Digest, begin: int, end: int) -> bytes:
        """Return the bytes of a blob from ``begin`` up to ``end``, fewer where it is shorter. They are not verified.

        Raises:
            IntegrityError: it is missing.
            StorageError: the home can't be read.
        """
        return self.blobs.read_range(digest, begin, end)

    def manifest(self, digest: Digest) -> Manifest:
        """The manifest of that digest.

        Raises:
            IntegrityError: it is missing, or its bytes have another digest.
            StorageError: the home can't be read.
        """
        return Manifest.from_bytes(self._read(self._manifest(digest), digest))

    def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes, ``None`` where it is not stored.

        Raises:
            IntegrityError: the list of its chunks is damaged.
            StorageError: the home can't be read.
        """
        return self.blobs.size(digest)

    def pull(self, digest: Digest, *, still_wanted: Callable[[], None] | None = None) -> Path:
        """The local folder with a version's files, every byte hashed by this call.

        Of several callers, in any processes of the node, one downloads; a download that was killed is continued;
        damaged files in the cache are downloaded again. The folder is not evicted until :meth:`release` was called once
        for each pull, or the process ends.

        Args:
            still_wanted: called before a download, once a lease keeps the version from being collected; it may raise.

        Raises:
            IntegrityError: a blob is missing from the home or its bytes have another digest.
            StorageError: the home can't be read or the cache not be written.
        """
        folder = self._cache.pull(digest, lambda: self._download(digest, still_wanted))
        self._keep_limit()
        return folder

    def download(
        self,
        source: str,
        *,
        revision: str = "",
        include: Sequence[str] = (),
        offline: bool | None = None,
        report: Report | None = None,
    ) -> Download:
        """Return a model from anywhere, in this node's cache, see :meth:`Downloads.get`."""
        found = self.downloads.get(source, revision=revision, include=include, offline=offline, report=report)
        if not found.was_here:
            self._compress_cold()
            self._keep_limit()
        return found

    @property
    def node_cache(self) -> Cache:
        """This node's cache."""
        return self._cache

    @property
    def downloads(self) -> Downloads:
        """The downloads in this node's cache."""
        from llamafarm_ray.storage.downloads.downloads import Downloads  # httpx, which few commands need

        return Downloads(self._cache)

    def release(self, digest: Digest) -> None:
        """End what one pull began: once every user of this process did so, the version may be evicted."""
        self._cache.release(digest)

    def pin(self, digest: Digest) -> None:
        """Keep a version in this node's cache."""
        self._cache.pin(digest)

    def unpin(self, digest: Digest) -> None:
        """End a pin; nothing where there is none."""
        self._cache.unpin(digest)

    def pinned(self) -> set[Digest]:
        """The versions pinned in this node's cache."""
        return self._cache.pinned()

    def cached(self) -> list[CachedVersion]:
        """The versions in this node's cache, the least recently used first."""
        return self._cache.cached()

    def evict(self, max_bytes: int) -> list[Digest]:
        """Cut this node's cache down to ``max_bytes``, see :meth:`Cache.evict`."""
        return self._cache.evict(max_bytes, self._kept())

    def export(self, digest: Digest, target: Path) -> None:
        """Copy a version into a plain folder, whole or not at all.

        Raises:
            InputError: the target is there and not an empty folder.
            IntegrityError, StorageError: as for :meth:`pull`, or the target can't be written.
        """
        check_free(target)
        source = self.pull(digest)
        try:
            copy_folder(source, target)
        finally:
            self.release(digest)

    def leased(self) -> set[Digest]:
        """The manifests that are being downloaded somewhere, see :class:`Leases`."""
        return self._leases.leased()

    def drop_expired_leases(self) -> None:
        """Delete the leases of processes that were killed."""
        self._leases.drop_expired()

    def stored(self) -> Iterator[StoredBlob]:
        """Every generation of every blob and manifest in the home, in no order.

        Raises:
            StorageError: the home can't be listed.
        """
        for file in self._home.walk(BLOBS_FOLDER):
            if blob := BlobFile.parse(file.name):
                size_bytes, modified = file.size_bytes, file.modified
                yield StoredBlob(blob.digest, blob.generation, False, size_bytes, modified, blob.is_chunk_list)
        for file in self._home.walk(_MANIFESTS):
            if match := _MANIFEST.fullmatch(file.name):
                digest, generation = Digest(f"sha256:{match[1]}"), int(match[2] or 0)
                yield StoredBlob(digest, generation, True, file.size_bytes, file.modified)

    def leftovers(self) -> Iterator[StoredFile]:
        """Return the files of writers that were killed more than a day ago; they can be removed."""
        limit = dt.datetime.now(dt.UTC) - _LEFT_AFTER
        for folder in (BLOBS_FOLDER, _MANIFESTS, "leases"):
            for file in self._home.walk(folder):
                if re.fullmatch(TEMPORARY, file.name.rsplit("/", 1)[-1]) and file.modified < limit:
                    yield file

    def remove(self, stored: StoredBlob) -> None:
        """Delete one generation of a blob or manifest from the home; one that is missing is fine.

        Raises:
            StorageError: it can't be deleted.
        """
        if stored.is_manifest:
            self._home.remove(_manifest_name(stored.digest, stored.generation))
        else:
            self._home.remove(BlobFile(stored.digest, stored.generation, stored.is_chunk_list).name)

    def check(self, digest: Digest, size_bytes: int | None = None, *, is_manifest: bool = False) -> str | None:
        """Read and hash the current generation of a blob or manifest in the home.

        Args:
            size_bytes: its size where a manifest lists it.
            is_manifest: True for a manifest.

        Returns:
            its defect (``"missing"``, ``"truncated: ..."``, ``"changed: ..."``), ``None`` if nothing is.

        Raises:
            StorageError: the home can't be read.
        """
        if not is_manifest:
            return self.blobs.check(digest, size_bytes)
        try:
            return defect(self._home.stream(self._manifest(digest)), digest, size_bytes) or None
        except FileNotFoundError:
            return "missing"

    @contextlib.contextmanager
    def _download(self, digest: Digest, still_wanted: Callable[[], None] | None) -> Iterator[tuple[Manifest, Source]]:
        with self._leases.lease(digest) as renew:
            if still_wanted is not None:
                still_wanted()
            yield self.manifest(digest), lambda entry, start: self._pieces(entry, start, renew)

    def _pieces(self, entry: FileEntry, start: int, renew: Callable[[], None]) -> Iterator[bytes]:
        try:
            for piece in self.blobs.stream(entry.digest, start):
                renew()
                yield piece
        except IntegrityError as error:
            raise IntegrityError(f"{entry.path}: {error.message}") from None

    def _places(self) -> dict[Digest, str]:
        """Return the places that versions in the cache come from: a download's source, else the home."""
        kinds = {record.manifest: record.kind for record in self.downloads.records()}
        if not self._home.is_local:
            return kinds
        return dict.fromkeys((one.digest for one in self.cached()), "local") | kinds

    def _compress_cold(self) -> None:
        """Compress versions that were not used for the configured time."""
        if self._compress_after is not None:
            try:
                self._cache.compress(self._compress_after.total_seconds())
            except StorageError as error:  # the files are there all the same
                logger.warning("%s", error)

    def _keep_limit(self) -> None:
        """Cut the cache down to its limit, as far as that goes."""
        if self._max_cache_bytes is not None:
            try:
                self._cache.evict(self._max_cache_bytes, self._kept())
            except StorageError as error:  # the files are there all the same
                logger.warning("%s", error)

    def _write(self, name: str, data: bytes) -> None:
        if self._home.read_many([name])[0] != data:
            self._home.write(name, data)

    def _read(self, name: str, digest: Digest) -> bytes:
        try:
            data = self._home.read(name)
        except FileNotFoundError:
            raise IntegrityError(f"The manifest {digest} is missing from {self._home.uri}.") from None
        if Digest.of(data) != digest:
            raise IntegrityError(f"The manifest {digest} in {self._home.uri} was changed: its digest is another.")
        return data

    def _manifest(self, digest: Digest) -> str:
        return _manifest_name(digest, self._generation(digest))


def _check_finite(folder: Path, manifest: Manifest) -> None:
    from llamafarm_ray.storage.formats.finite import find_not_finite  # numpy, which few commands need

    names = (entry.path for entry in manifest.files if entry.path.lower().endswith(".safetensors"))
    try:
        found = find_not_finite(folder / name for name in names)
    except OSError as error:
        raise InputError(f"{folder} can't be read: {error}.", hint="Check its files' permissions.") from error
    if found is not None:
        raise InputError(
            f"{folder} is no usable adapter: {found}.",
            hint="Train it again, with a lower learning rate if its loss was no number, or export it again.",
        )


def _manifest_name(digest: Digest, generation: int) -> str:
    return f"{_MANIFESTS}/{digest.hex}{f'.{generation}' if generation else ''}.json"
