"""Files of a model at a source of downloads, of which only the parts that are read are fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from llamafarm_ray.errors import StorageError, UnsupportedError
from llamafarm_ray.models.formats.files import ModelFiles, RangedFile
from llamafarm_ray.storage.downloads.credentials import Credentials
from llamafarm_ray.storage.downloads.providers.sources import parse_source
from llamafarm_ray.storage.downloads.remote import Patience, RemoteFile, Wanted
from llamafarm_ray.storage.downloads.web import Web

__all__ = ["remote_files"]

_SKIPPED_BYTES = 1 << 24
"""Bytes that are read in vain at most, where a server knows no ranges."""


@contextmanager
def remote_files(source: str, include: Sequence[str] = ()) -> Iterator[tuple[ModelFiles, str]]:
    """Open the files of a model at a source for the time of a block.

    Args:
        source: see :func:`~llamafarm_ray.storage.downloads.providers.sources.parse_source`.
        include: patterns of weights to take instead of the safetensors.

    Yields:
        the files, and the source as messages show it.

    Raises:
        UnsupportedError: the model is in an archive there.
        LlamaFarmError: the source refuses it or can't be reached.
    """
    found = parse_source(source)
    with Web(Credentials(), Patience()) as web:
        listing = found.listing(web, include)
        if listing.archives:
            raise UnsupportedError(
                f"The model at {found.address} is in an archive ({min(listing.archives)}), and is not read in parts.",
                hint="Download it with `llamafarm models download`, and inspect the folder that this prints.",
            )
        yield _RemoteFiles(web, listing.files), found.address


class _RemoteFiles:
    """Files of a listing; see `ModelFiles`."""

    def __init__(self, web: Web, files: Sequence[Wanted]) -> None:
        self._web = web
        self._files = {one.path: one.remote for one in files if "/" not in one.path}
        self._sizes = {one.path: self._size(one) for one in files if "/" not in one.path}

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def open(self, name: str) -> BinaryIO:
        remote = self._files[name]
        return RangedFile(self._sizes[name], lambda begin, size: self._fetch(remote, begin, size)).buffered()

    def _size(self, wanted: Wanted) -> int:
        """Return a file's size, asked for where the listing does not tell it.

        Raises:
            StorageError: its server does not tell it either.
        """
        if wanted.size_bytes is not None:
            return wanted.size_bytes

        def ask() -> int | None:
            with wanted.remote.read(0, 1) as answer:
                return answer.size_bytes

        found = self._web.again(wanted.remote.shown, ask)
        if found is None:
            raise StorageError(f"{wanted.remote.shown} does not tell its size.", hint="Download it, and inspect that.")
        return found

    def _fetch(self, remote: RemoteFile, begin: int, size_bytes: int) -> bytes:
        def ask() -> bytes:
            with remote.read(begin, begin + size_bytes) as answer:
                if begin - answer.begin > _SKIPPED_BYTES:
                    raise StorageError(
                        f"{remote.shown} is sent as a whole only.", hint="Download it, and inspect the folder."
                    )
                return _part(answer.chunks, begin - answer.begin, size_bytes)

        return self._web.again(remote.shown, ask)


def _part(chunks: Iterator[bytes], begin: int, size_bytes: int) -> bytes:
    """Return so many bytes from a place on, and read no further."""
    found = bytearray()
    for chunk in chunks:
        found += chunk
        if len(found) >= begin + size_bytes:
            break
    return bytes(found[begin : begin + size_bytes])
