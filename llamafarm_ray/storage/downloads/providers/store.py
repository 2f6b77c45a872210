"""Models in object stores and wherever else fsspec reads: ``s3://``, ``gs://``, ``az://``, ``memory://``, ..."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llamafarm_ray.errors import NotFoundError
from llamafarm_ray.storage.downloads.providers.archives import is_archive
from llamafarm_ray.storage.downloads.providers.source import Listing
from llamafarm_ray.storage.downloads.providers.spelling import model_name
from llamafarm_ray.storage.downloads.providers.wanted_files import choose_files
from llamafarm_ray.storage.downloads.remote import Answer, ReplacedError, Wanted
from llamafarm_ray.storage.downloads.web import Web
from llamafarm_ray.storage.location import Location
from llamafarm_ray.types import Digest

__all__ = ["StoreFile", "StoreSource"]

_RANGE_BYTES = 4 * 1024 * 1024
_LOOKS_AT_ONCE = 8


class StoreFile:
    """A file below a location."""

    def __init__(self, location: Location, name: str, size_bytes: int, validator: str) -> None:
        self._location = location
        self._name = name
        self._size_bytes = size_bytes
        self._validator = validator
        self.shown = f"{location.uri}/{name}"

    @contextlib.contextmanager
    def read(self, begin: int, end: int) -> Iterator[Answer]:
        """Read a range of bytes, a request for each few megabytes of it."""
        yield Answer(begin, self._size_bytes, self._validator, self._pieces(begin, min(end, self._size_bytes)))

    def _pieces(self, begin: int, end: int) -> Iterator[bytes]:
        while begin < end:
            try:
                data = self._location.read_range(self._name, begin, min(end, begin + _RANGE_BYTES))
            except FileNotFoundError:
                raise _deleted(self.shown) from None
            if not data:
                return
            begin += len(data)
            yield data
        found = _validator(self._location, self._name)
        if found != self._validator:
            self._validator, self._size_bytes = (
                found,
                self._location.size(self._name) or 0,
            )  # the next answer tells them
            raise ReplacedError


class StoreSource:
    """A model in an object store: a folder, or one file."""

    kind = "store"
    revision = ""
    needs_network = True
    is_fixed = False
    variant = ""

    def __init__(self, uri: str) -> None:
        self.address = uri.rstrip("/")
        self.name = model_name(self.address.rpartition("/")[2])

    def listing(self, web: Web, include: Sequence[str]) -> Listing:
        """List the files below the URI, or the one at it."""
        del web
        folder, _, last = self.address.rpartition("/")
        location = Location(self.address)
        sizes: dict[str, int | None] = {file.name: file.size_bytes for file in location.walk() if file.name}
        if sizes:
            names = choose_files(sizes, include, self.address)
        else:
            location = Location(folder)
            if (size := location.size(last)) is None:
                raise NotFoundError(f"There is nothing at {self.address}.", hint="Check the address.")
            sizes, names = {last: size}, [last]
        with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
            validators = list(pool.map(lambda name: _validator(location, name), names))
        files = [
            Wanted(
                name,
                StoreFile(location, name, sizes[name] or 0, validator),
                size_bytes=sizes[name],
                validator=validator,
            )
            for name, validator in zip(names, validators, strict=True)
        ]
        state = Digest.of(repr(sorted(zip(names, validators, strict=True))).encode())
        return Listing(state, files, frozenset(name for name in names if len(names) == 1 and is_archive(name)))

    def copy_elsewhere(self) -> Path | None:
        """Return nothing."""
        return None


def _validator(location: Location, name: str) -> str:
    try:
        return location.validator(name)
    except FileNotFoundError:
        raise _deleted(f"{location.uri}/{name}") from None


def _deleted(name: str) -> NotFoundError:
    return NotFoundError(f"{name} was deleted meanwhile.", hint="Start again when no process writes there.")
