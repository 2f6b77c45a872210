"""The folder in which a download becomes whole, gone on with after a kill.

::

    files/           finished files under their names, part files and sidecars beside them
    finished.jsonl   which files are finished, and what they were announced as
    model/           what archives among them hold
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.downloads.fetch import Fetched, Progress, fetch
from llamafarm_ray.storage.downloads.providers.archives import unpack_model, unpack_tar
from llamafarm_ray.storage.downloads.providers.source import Listing
from llamafarm_ray.storage.downloads.providers.wanted_files import choose_files
from llamafarm_ray.storage.downloads.remote import Patience, Wanted
from llamafarm_ray.storage.formats.shards import is_index, missing_shards, read_weight_map, refuse_missing
from llamafarm_ray.storage.node_cache.cache import Cache
from llamafarm_ray.types import Digest

__all__ = ["Staging"]


class Staging:
    """The folder of one unfinished download; the holder of its lock may write to it."""

    def __init__(self, folder: Path, cache: Cache) -> None:
        self._folder = folder
        self._files = folder / "files"
        self._journal = folder / "finished.jsonl"
        self._cache = cache
        self._lock = threading.Lock()

    def fetch(
        self,
        listing: Listing,
        *,
        patience: Patience,
        progress: Progress,
        note: Callable[[str], None],
        connections: int,
        piece_bytes: int,
        check_indexes: bool = True,
    ) -> list[Fetched]:
        """Fetch the files that are neither here nor in the cache; return all files.

        Args:
            patience: limits of time and tries.
            progress: told of bytes.
            note: called with notes for the user.
            connections: number of requests at once.
            piece_bytes: bytes of one request.
            check_indexes: refuse weights without a file that their index names; False where a user chose among them.

        Raises:
            InputError: files of the weights are missing at the source.
            LlamaFarmError: see :func:`~llamafarm_ray.storage.downloads.fetch.fetch`.
        """
        self._files.mkdir(parents=True, exist_ok=True)
        wanted = {one.path: one for one in listing.files}
        done = self._finished(wanted)
        for path, one in wanted.items():
            if path not in done and (found := self._from_cache(one)):
                done[path] = found
        self._remove_others(wanted)
        get = functools.partial(
            fetch,
            folder=self._files,
            patience=patience,
            note=note,
            finished=lambda one: self._note_finished(one, wanted[one.path]),
            connections=connections,
            piece_bytes=piece_bytes,
        )
        missing = [one for path, one in wanted.items() if path not in done]
        indexes = [one for one in missing if is_index(one.path)] if check_indexes else []
        fetched = get(indexes, progress=lambda _done, _total: None)
        if check_indexes:
            self._check_indexes({*done, *(one.path for one in fetched)}, wanted)
        known = {one.path for one in fetched}
        return [*done.values(), *fetched, *get([one for one in missing if one.path not in known], progress=progress)]

    def _check_indexes(self, here: set[str], wanted: Collection[str]) -> None:
        """Check, before weights are fetched, that the source has each file that an index names.

        Raises:
            InputError: it has not.
        """
        for path in sorted(filter(is_index, here)):
            weight_map = read_weight_map((self._files / path).read_bytes(), shown=path)
            refuse_missing(missing_shards(path, weight_map, wanted), path, "The model")

    def unpacked(self, listing: Listing, include: Sequence[str]) -> Path:
        """Return the folder of the model, taken out of its archives where it is in some.

        Raises:
            InputError: an archive is broken or hostile, or holds no model.
        """
        if not listing.archives:
            return self._files
        folder = self._folder / "model"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if not listing.is_layered:
            (archive,) = listing.archives
            unpack_model(self._files / archive, folder, include)
            return folder
        for archive in (one.path for one in listing.files if one.path in listing.archives):
            unpack_tar(self._files / archive, folder)  # in the manifest's order: a file of a later layer stays
        for one in listing.files:
            if one.path not in listing.archives:
                target = folder / one.path
                if target.exists():
                    raise InputError(f"{one.path} is in the artifact twice.", hint="Push it anew.")
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(self._files / one.path, target)
        sizes = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        chosen = set(choose_files({name: path.stat().st_size for name, path in sizes.items()}, include, "The artifact"))
        for name, path in sizes.items():
            if name not in chosen:
                path.unlink()
        return folder

    def drop(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _finished(self, wanted: dict[str, Wanted]) -> dict[str, Fetched]:
        """Return the files that an earlier process finished, as they are announced now too."""
        found: dict[str, Fetched] = {}
        try:
            lines = self._journal.read_bytes().split(b"\n")[:-1]
        except OSError:
            return found
        for line in lines:
            try:
                entry = json.loads(line)
                fetched = Fetched(**entry["fetched"] | {"digest": Digest(entry["fetched"]["digest"])})
            except (ValueError, TypeError, KeyError, InputError):
                continue
            one, path = wanted.get(fetched.path), self._files / fetched.path
            is_there = path.is_file() and path.stat().st_size == fetched.size_bytes
            if one is not None and is_there and _is_same(one, fetched, entry.get("git_digest")):
                found[fetched.path] = fetched
        return found

    def _note_finished(self, fetched: Fetched, wanted: Wanted) -> None:
        entry: dict[str, object] = {"fetched": asdict(fetched), "git_digest": wanted.git_digest}
        with self._lock, self._journal.open("ab", buffering=0) as file:
            file.write(json.dumps(entry).encode() + b"\n")

    def _from_cache(self, one: Wanted) -> Fetched | None:
        """Return a file whose bytes the cache has from elsewhere."""
        if one.digest is None or one.size_bytes is None:
            return None
        if not self._cache.link_blob(one.digest, one.size_bytes, self._files / one.path):
            return None
        return Fetched(one.path, one.digest, one.size_bytes, one.validator, one.remote.shown)

    def _remove_others(self, wanted: dict[str, Wanted]) -> None:
        """Delete the files of another state of the source."""
        for path in [path for path in self._files.rglob("*") if path.is_file()]:
            name = path.name
            if name.startswith("."):  # a part file or a sidecar
                name = name[1:].removesuffix(".pieces").removesuffix(".part")
            if path.with_name(name).relative_to(self._files).as_posix() not in wanted:
                path.unlink()


def _is_same(wanted: Wanted, fetched: Fetched, git_digest: object) -> bool:
    if wanted.digest is not None:
        return wanted.digest == fetched.digest
    if wanted.git_digest is not None:
        return wanted.git_digest == git_digest
    is_named = bool(wanted.validator) and wanted.validator == fetched.validator
    return is_named and wanted.remote.shown == fetched.address
