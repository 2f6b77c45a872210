"""The blobs of a home: each stored whole, or as a list of chunks that other blobs share."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.storage.chunks import SMALLEST_FILE_BYTES, Chunk, ChunkList, split
from llamafarm_ray.storage.location import Location
from llamafarm_ray.storage.manifest import FileEntry, Manifest
from llamafarm_ray.types import Digest

__all__ = ["BLOBS_FOLDER", "BlobFile", "Blobs", "defect"]

BLOBS_FOLDER = "blobs/sha256"
_NAME = re.compile(rf"{BLOBS_FOLDER}/([0-9a-f]{{2}})/(\1[0-9a-f]{{62}})(?:\.([1-9]\d{{0,8}}))?(\.chunks)?", re.ASCII)
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class BlobFile:
    """A file of a home by its name: the blob's digest and generation, and whether it is the blob's list of chunks."""

    digest: Digest
    generation: int
    is_chunk_list: bool

    @classmethod
    def parse(cls, name: str) -> BlobFile | None:
        """Return the blob that a file of that name is; ``None`` for a foreign file."""
        match = _NAME.fullmatch(name)
        return cls(Digest(f"sha256:{match[2]}"), int(match[3] or 0), bool(match[4])) if match else None

    @property
    def name(self) -> str:
        """The name of the file."""
        digits, suffix = self.digest.hex, ".chunks" if self.is_chunk_list else ""
        return f"{BLOBS_FOLDER}/{digits[:2]}/{digits}{f'.{self.generation}' if self.generation else ''}{suffix}"


class Blobs:
    """Blobs below a home. A blob that is there whole is read so, and its list of chunks, if there is one, is not.

    Args:
        generation: the generation of a digest that is read and written now.
    """

    def __init__(self, home: Location, generation: Callable[[Digest], int]) -> None:
        self._home = home
        self._generation = generation

    def name(self, digest: Digest) -> str:
        """The name of the file that holds a blob whole."""
        return BlobFile(digest, self._generation(digest), is_chunk_list=False).name

    def publish(self, path: Path, entry: FileEntry, *, in_chunks: bool) -> None:
        """Store a local file, unless it is stored already: whole, or as the chunks that are not there yet.

        Args:
            entry: its entry in a manifest that was made just now.
            in_chunks: True to store a large safetensors file in chunks.

        Raises:
            InputError: the file has other bytes by now.
            StorageError: the home can't be written.
        """
        if self.has(entry.digest, entry.size_bytes):
            return
        may_chunk = in_chunks and path.suffix.lower() == ".safetensors" and entry.size_bytes >= SMALLEST_FILE_BYTES
        if may_chunk and self._home.size(self.name(entry.digest)) is None:  # a damaged one has to be replaced
            self._publish_chunks(path, entry.digest)
        else:
            self._home.upload(path, self.name(entry.digest), entry.digest)

    def has(self, digest: Digest, size_bytes: int) -> bool:
        """Return True if a blob is there, complete: in a local home its bytes are hashed, elsewhere its size counts."""
        try:
            if self._home.is_local:
                return self.check(digest, size_bytes) is None
            return self.size(digest) == size_bytes
        except IntegrityError:  # its list of chunks
            return False

    def chunks(self, digest: Digest) -> ChunkList | None:
        """Return the chunks of a blob; ``None`` if there is no list of them.

        Raises:
            IntegrityError: the list is damaged.
            StorageError: the home can't be read.
        """
        (data,) = self._home.read_many([self._list_name(digest)])
        return ChunkList.from_bytes(data, digest) if data is not None else None

    def stored_as(self, manifest: Manifest) -> set[Digest]:
        """Return the digests of all blobs that a manifest's files consist of: the files', and those of their chunks.

        Raises:
            IntegrityError: a list of chunks is damaged.
            StorageError: the home can't be read.
        """
        found = {entry.digest for entry in manifest.files}
        large = {entry.digest for entry in manifest.files if entry.size_bytes >= SMALLEST_FILE_BYTES}
        for digest in sorted(large):
            if self._home.size(self.name(digest)) is None and (listed := self.chunks(digest)):
                found.update(chunk.digest for chunk in listed.chunks)
        return found

    def size(self, digest: Digest) -> int | None:
        """Return the size of a blob in bytes; ``None`` where it, or a chunk of it, is not stored.

        Raises:
            IntegrityError: its list of chunks is damaged.
            StorageError: the home can't be read.
        """
        found = self._home.size(self.name(digest))
        if found is not None or (listed := self.chunks(digest)) is None:
            return found
        chunks = {*listed.chunks}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            sizes = pool.map(lambda chunk: self._home.size(self.name(chunk.digest)), chunks)
            is_whole = all(size == chunk.size_bytes for size, chunk in zip(sizes, chunks, strict=True))
        return listed.size_bytes if is_whole else None

    def read(self, digest: Digest) -> bytes:
        """Return the whole of a small blob, verified.

        Raises:
            IntegrityError: it is missing, or its bytes have another digest.
            StorageError: the home can't be read.
        """
        data = b"".join(self.stream(digest))
        if Digest.of(data) != digest:
            raise IntegrityError(f"The blob {digest} in {self._home.uri} was changed: its digest is another.")
        return data

    def stream(self, digest: Digest, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a blob from the offset ``start`` on, in pieces. They are not verified.

        Raises:
            IntegrityError: it is missing, or a chunk of it.
            StorageError: the home can't be read.
        """
        try:
            for piece in self._home.stream(self.name(digest), start):
                start += len(piece)
                yield piece
        except FileNotFoundError:
            listed = self._listed(digest)
            yield from self._stream_chunks(listed, start, listed.size_bytes)

    def read_range(self, digest: Digest, begin: int, end: int) -> bytes:
        """Return the bytes of a blob from ``begin`` up to ``end``, fewer where it is shorter. They are not verified.

        Raises:
            IntegrityError: it is missing, or a chunk of it.
            StorageError: the home can't be read.
        """
        try:
            return self._home.read_range(self.name(digest), begin, end)
        except FileNotFoundError:
            return b"".join(self._stream_chunks(self._listed(digest), begin, end))

    def check(self, digest: Digest, size_bytes: int | None = None) -> str | None:
        """Read and hash a blob; return its defect, see :meth:`ContentStore.check`."""
        try:
            found = defect(self.stream(digest), digest, size_bytes)
            if found and self._home.size(self.name(digest)) is None:
                damaged = (chunk.digest for chunk in self._listed(digest).chunks if not self._has_chunk(chunk))
                found = f"{found} (its chunk {next(damaged, 'of another file')} is damaged)"
        except IntegrityError as error:
            return "missing" if self._home.size(self._list_name(digest)) is None else f"unreadable: {error.message}"
        return found or None

    def _publish_chunks(self, path: Path, digest: Digest) -> None:
        """Store the missing chunks, then the list of them: chunks are read by the list alone."""
        listed = split(path, digest)
        offsets = itertools.accumulate((chunk.size_bytes for chunk in listed.chunks), initial=0)
        begins = dict(zip(listed.chunks, offsets, strict=False))  # equal ones once

        def publish(chunk: Chunk) -> None:
            if not self._has_chunk(chunk):
                part = begins[chunk], begins[chunk] + chunk.size_bytes
                self._home.upload(path, self.name(chunk.digest), chunk.digest, part=part)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(publish, begins))
        self._home.write(self._list_name(digest), listed.to_bytes())

    def _has_chunk(self, chunk: Chunk) -> bool:
        """Return True if a chunk is there, see :meth:`has`. One is always stored whole."""
        name = self.name(chunk.digest)
        if self._home.size(name) != chunk.size_bytes:
            return False
        return not self._home.is_local or not defect(self._home.stream(name), chunk.digest, None)

    def _listed(self, digest: Digest) -> ChunkList:
        found = self.chunks(digest)
        if found is None:
            raise IntegrityError(f"The blob {digest} is missing from {self._home.uri}.")
        return found

    def _stream_chunks(self, listed: ChunkList, begin: int, end: int) -> Iterator[bytes]:
        parts = [(self.name(chunk.digest), first, last) for chunk, first, last in listed.within(begin, end)]
        try:
            yield from self._home.stream_parts(parts)
        except FileNotFoundError:
            missing = (chunk.digest for chunk in listed.chunks if self._home.size(self.name(chunk.digest)) is None)
            raise IntegrityError(
                f"The blob {listed.digest} can't be read: its chunk {next(missing, '')} is missing from "
                f"{self._home.uri}."
            ) from None

    def _list_name(self, digest: Digest) -> str:
        return BlobFile(digest, self._generation(digest), is_chunk_list=True).name


def defect(pieces: Iterator[bytes], digest: Digest, size_bytes: int | None) -> str:
    """Hash pieces of stored bytes; return their defect, or nothing."""
    hasher, found = hashlib.sha256(), 0
    for piece in pieces:
        hasher.update(piece)
        found += len(piece)
    if size_bytes is not None and found < size_bytes:
        return f"truncated: {found} of {size_bytes} bytes are there"
    return "" if hasher.hexdigest() == digest.hex else f"changed: its digest is sha256:{hasher.hexdigest()}"
