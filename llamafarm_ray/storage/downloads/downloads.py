"""Downloads in a node's cache: each model once, whole and checked.

::

    downloads/<key>.json   a download's record; the key is a digest of source, revision and patterns
    downloads/<key>/       an unfinished one: its files, part files and their sidecars

Files become versions of the cache (:class:`~llamafarm_ray.storage.node_cache.cache.Cache`), so those with the same
bytes exist once, and the cache's leases, pins and limit hold for them.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamafarm_ray.errors import InputError, IntegrityError, NotFoundError, StorageError
from llamafarm_ray.storage.downloads.credentials import Credentials
from llamafarm_ray.storage.downloads.fetch import CONNECTIONS, Progress
from llamafarm_ray.storage.downloads.providers.local import LocalSource
from llamafarm_ray.storage.downloads.providers.source import Listing, Source
from llamafarm_ray.storage.downloads.providers.sources import parse_source
from llamafarm_ray.storage.downloads.record import DownloadRecord, FileRecord, boot_id, find_licence
from llamafarm_ray.storage.downloads.remote import Patience
from llamafarm_ray.storage.downloads.staging import Staging
from llamafarm_ray.storage.downloads.transfer import PIECE_BYTES
from llamafarm_ray.storage.downloads.web import Web
from llamafarm_ray.storage.formats.shards import check_shards
from llamafarm_ray.storage.locks import exclusive, try_exclusive
from llamafarm_ray.storage.manifest import Manifest
from llamafarm_ray.storage.node_cache.cache import Cache
from llamafarm_ray.types import Digest

__all__ = ["Download", "Downloads", "Report", "is_offline"]

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_KEPT_UNFINISHED_S = 7 * 24 * 3600


def is_offline() -> bool:
    """Return whether the environment says to use only what is on this machine (``HF_HUB_OFFLINE=1``)."""
    return any(os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"} for name in _OFFLINE)


@dataclass(frozen=True, slots=True)
class Download:
    """A model on this machine: its record, its folder, and whether it was there before."""

    record: DownloadRecord
    folder: Path
    was_here: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Functions that take progress in bytes, and messages for the user."""

    progress: Progress = lambda _done, _total: None
    note: Callable[[str], None] = lambda _: None


class Downloads:
    """The downloads of a cache.

    Args:
        cache: cache that gets the files.
        patience: limits of time and tries.
        connections: number of requests at once.
        piece_bytes: bytes of one request.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        patience: Patience | None = None,
        connections: int = CONNECTIONS,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self._cache = cache
        self._folder = cache.folder / "downloads"
        self._patience = patience or Patience()
        self._connections = connections
        self._piece_bytes = piece_bytes

    def get(
        self,
        text: str,
        *,
        revision: str = "",
        include: Sequence[str] = (),
        offline: bool | None = None,
        report: Report | None = None,
    ) -> Download:
        """Return a model's files, downloaded where they are not here; they stay in use until the process ends.

        A finished download is used without a look at the source where that can't change (a commit, a digest) or the
        source can't be reached. Sizes and times of files tell whether they are as they were when they were checked;
        every byte is hashed again where they differ, and once after each start of the machine.

        Args:
            text: the source, see :func:`~llamafarm_ray.storage.downloads.providers.sources.parse_source`.
            revision: a branch, tag, commit or digest.
            include: patterns of weights to take instead of the safetensors.
            offline: use only what is on this machine; by default the environment says it.
            report: told of progress.

        Raises:
            InputError: the text names no source, or the files there are unusable.
            NotFoundError: the source does not have it; offline, it is not on this machine.
            AccessDeniedError: the source refuses it.
            IntegrityError: bytes are not those that were announced.
            StorageError: the source can't be reached, or the cache not be written.
        """
        source = parse_source(text, revision)
        key = _key(source, include)
        told = report or Report()
        lock = self._cache.folder / "locks" / f"{key}.download"
        asked = _Asked(source, tuple(include), key, is_offline() if offline is None else offline, told)
        try:
            with try_exclusive(lock) as is_free:
                if is_free:
                    return self._get(asked)
            told.note(f"Another process is downloading {source.address}: waiting for it.")
            with exclusive(lock):
                return self._get(asked)
        except OSError as error:
            raise StorageError(
                f"The cache {self._cache.folder} can't be written: {error}.",
                hint="Free space there, or name another folder in LLAMAFARM_CACHE.",
            ) from error

    def find(self, text: str, revision: str = "", include: Sequence[str] = ()) -> DownloadRecord | None:
        """Return the record of a download that is here, without a look at its source."""
        try:
            record = DownloadRecord.read(self._record(_key(parse_source(text, revision), include)))
        except InputError:
            return None
        return record if record is not None and self._cache.has(record.manifest) else None

    def folder(self, text: str) -> Path | None:
        """Return the folder of a download that is here, without a look at its source; another process may evict it.

        Raises:
            OSError: it is compressed, and the cache can't be written.
        """
        record = self.find(text)
        if record is None:
            return None
        if (folder := self._cache.folder_of(record.manifest)) is not None:
            return folder
        if folder := self._cache.use(record.manifest):
            self._cache.release(record.manifest)
        return folder

    def records(self) -> list[DownloadRecord]:
        """Return the records of the downloads that are here, the newest last."""
        found = (DownloadRecord.read(path) for path in self._folder.glob("*.json")) if self._folder.is_dir() else ()
        here = [record for record in found if record is not None and self._cache.has(record.manifest)]
        return sorted(here, key=lambda record: record.downloaded_at)

    def unfinished_bytes(self) -> int:
        """Return how much of the disk unfinished downloads take."""
        return sum(_disk_bytes(path) for path in self._folder.glob("*/**/*"))

    def drop_unfinished(self, older_than_s: float = _KEPT_UNFINISHED_S, *, dry_run: bool = False) -> int:
        """Delete unfinished downloads that were idle for a time; return the number of freed bytes."""
        freed = 0
        for folder in self._folder.glob("*/"):
            with try_exclusive(self._cache.folder / "locks" / f"{folder.name}.download") as is_free:
                files = list(folder.glob("**/*"))
                newest = max((path.stat().st_mtime for path in [folder, *files]), default=0.0)
                if is_free and time.time() - newest >= older_than_s:
                    freed += sum(_disk_bytes(path) for path in files)
                    if not dry_run:
                        shutil.rmtree(folder, ignore_errors=True)
        return freed

    def _get(self, asked: _Asked) -> Download:
        record = DownloadRecord.read(self._record(asked.key))
        if record is not None and (asked.source.is_fixed or asked.is_cut_off) and (here := self._here(record, asked)):
            return here
        if asked.is_cut_off:
            return self._elsewhere(asked)
        with Web(Credentials(), self._patience, self._connections) as web:
            try:
                listing = asked.source.listing(web, asked.include)
            except StorageError as error:
                if record is None or (here := self._here(record, asked)) is None:
                    raise
                asked.report.note(f"{error.message} What was downloaded at {record.downloaded_at} is used.")
                return here
            if record is not None and record.resolved and record.resolved == listing.resolved:
                if here := self._here(record, asked):
                    return here
                asked.report.note(f"{asked.source.address} is not in the cache as it was: downloading it again.")
            return self._fetch(asked, listing)

    def _here(self, record: DownloadRecord, asked: _Asked) -> Download | None:
        """Return a download whose files are intact, marked as in use."""
        folder = self._cache.use(record.manifest)
        if folder is None:
            return None
        if record.boot != boot_id() or not all(_is_as_recorded(folder, file) for file in record.files):
            if not self._cache.is_sound(record.manifest):
                self._cache.release(record.manifest)
                return None
            files = tuple(replace(file, modified_ns=_modified_ns(folder / file.path)) for file in record.files)
            record = replace(record, files=files, boot=boot_id())
            record.write(self._record(asked.key))
        return Download(record, folder, was_here=True)

    def _elsewhere(self, asked: _Asked) -> Download:
        """Take a model from the cache of another tool.

        Raises:
            NotFoundError: it is in none.
        """
        snapshot = asked.source.copy_elsewhere()
        if snapshot is None:
            here = ", ".join(sorted({record.source for record in self.records()})) or "nothing"
            raise NotFoundError(
                f"{asked.source.address} is not on this machine, and nothing is downloaded (offline).",
                hint=f"Leave --offline out, and unset HF_HUB_OFFLINE. Downloaded here: {here}.",
            )
        with Web(Credentials(), self._patience, self._connections) as web:
            listing = LocalSource(snapshot, commit=snapshot.name).listing(web, asked.include)
            return self._fetch(asked, listing)

    def _fetch(self, asked: _Asked, listing: Listing) -> Download:
        staging = Staging(self._folder / asked.key, self._cache)
        fetched = staging.fetch(
            listing,
            patience=self._patience,
            progress=asked.report.progress,
            note=asked.report.note,
            connections=self._connections,
            piece_bytes=self._piece_bytes,
            check_indexes=not asked.include and not listing.archives,
        )
        try:
            folder = staging.unpacked(listing, asked.include)
            if not asked.include:
                check_shards(folder, shown=asked.source.address)
            manifest = Manifest.of_folder(folder, {one.path: one.digest for one in fetched})
            licence = listing.licence or find_licence(folder, [entry.path for entry in manifest.files])
        except (InputError, IntegrityError):
            staging.drop()  # the same would come of the same bytes
            raise
        version = self._cache.adopt(folder, manifest)
        came_from = {one.path: one for one in fetched}
        files = tuple(
            FileRecord(
                entry.path,
                entry.size_bytes,
                entry.digest,
                _modified_ns(version / entry.path),
                came_from[entry.path].address if entry.path in came_from else "",
                came_from[entry.path].validator if entry.path in came_from else "",
            )
            for entry in manifest.files
        )
        source = asked.source
        record = DownloadRecord(
            kind=source.kind,
            source=source.address,
            revision=source.revision,
            include=asked.include,
            resolved=listing.resolved,
            name=source.name,
            manifest=manifest.digest,
            files=files,
            licence=licence,
            downloaded_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            boot=boot_id(),
        )
        record.write(self._record(asked.key))
        staging.drop()
        return Download(record, version)

    def _record(self, key: str) -> Path:
        return self._folder / f"{key}.json"


@dataclass(frozen=True, slots=True)
class _Asked:
    source: Source
    include: tuple[str, ...]
    key: str
    offline: bool
    report: Report

    @property
    def is_cut_off(self) -> bool:
        """True if the source can't be asked."""
        return self.offline and self.source.needs_network


def _key(source: Source, include: Sequence[str]) -> str:
    said = [source.kind, source.address, source.revision, list(include), *([source.variant] if source.variant else [])]
    return Digest.of(json.dumps(said).encode()).hex


def _is_as_recorded(folder: Path, file: FileRecord) -> bool:
    try:
        found = (folder / file.path).lstat()
    except OSError:
        return False
    return found.st_size == file.size_bytes and found.st_mtime_ns == file.modified_ns


def _modified_ns(path: Path) -> int:
    return path.lstat().st_mtime_ns


def _disk_bytes(path: Path) -> int:
    """Return the blocks that a file takes: part files have holes."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_blocks * 512 if path.is_file() and found.st_nlink == 1 else 0
