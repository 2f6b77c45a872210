"""Chunks of a safetensors file: one large tensor each, or a run of small ones.

Two fine-tunes of one model have the same chunks where they have the same tensors, whatever their files are called.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.storage.formats.safetensors import read_tensors
from llamafarm_ray.storage.ranges import read_part
from llamafarm_ray.types import Digest

__all__ = ["SMALLEST_FILE_BYTES", "Chunk", "ChunkList", "boundaries", "split"]

SMALLEST_FILE_BYTES = 4 * 1024 * 1024
"""Smaller files are stored whole."""
_SMALLEST_CHUNK_BYTES = 64 * 1024
_LARGE_TENSORS = 2048
"""The most tensors of a file with chunks of their own: what is smaller than the file's size by this is a small tensor.
So a file has at most twice as many chunks, and one, whatever its header says."""
_FORMAT = 1


class Chunk(NamedTuple):
    """Consecutive bytes of a file, stored as a blob: its digest and its size in bytes."""

    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ChunkList:
    """The chunks that a blob consists of, in their order."""

    digest: Digest
    chunks: tuple[Chunk, ...]

    @classmethod
    def from_bytes(cls, data: bytes, digest: Digest) -> Self:
        """Parse the bytes that :meth:`to_bytes` wrote for the blob of a digest.

        Raises:
            IntegrityError: they are not.
        """
        try:
            listed = json.loads(data)["chunks"]
            found = cls(digest, tuple(Chunk(Digest(str(name)), size) for name, size in listed))
        except (ValueError, TypeError, KeyError, RecursionError, InputError):
            raise _damaged(digest) from None
        sizes = [chunk.size_bytes for chunk in found.chunks]
        if any(type(size) is not int or size <= 0 for size in sizes) or found.to_bytes() != data:
            raise _damaged(digest)
        return found

    def to_bytes(self) -> bytes:
        """The canonical JSON form, with a digest of the list itself: a collector of garbage relies on it."""
        listed = [[chunk.digest, chunk.size_bytes] for chunk in self.chunks]
        body = {"blob": self.digest, "chunks": listed, "format_version": _FORMAT}
        return _compact(body | {"list": Digest.of(_compact(body))})

    @property
    def size_bytes(self) -> int:
        """All chunks together."""
        return sum(chunk.size_bytes for chunk in self.chunks)

    def within(self, begin: int, end: int) -> Iterator[tuple[Chunk, int, int]]:
        """Yield the chunks with bytes of the blob from ``begin`` up to ``end``, and where in each of them those are."""
        offset = 0
        for chunk in self.chunks:
            first, last = max(begin - offset, 0), min(end - offset, chunk.size_bytes)
            if first < last:
                yield chunk, first, last
            offset += chunk.size_bytes


def boundaries(path: Path) -> list[int]:
    """Return the offsets where the chunks of a safetensors file begin and end.

    Raises:
        InputError: the file does not follow the format.
    """
    size_bytes = path.stat().st_size
    large_bytes = max(_SMALLEST_CHUNK_BYTES, size_bytes // _LARGE_TENSORS)
    tensors = read_tensors(path)
    data_begin = tensors[0].begin if tensors else size_bytes
    found = [0]
    for begin, end in [(0, data_begin), *((tensor.begin, tensor.end) for tensor in tensors)]:
        if end - begin >= large_bytes:
            found += [begin, end]
        elif end - found[-1] >= large_bytes:
            found.append(end)
    return [key for key, _ in itertools.groupby([*found, size_bytes])]


def split(path: Path, digest: Digest) -> ChunkList:
    """Return the chunks of a safetensors file.

    Args:
        digest: digest that it had just now.

    Raises:
        InputError: it has another one by now, or does not follow the format.
    """
    whole, chunks = hashlib.sha256(), []
    for begin, end in itertools.pairwise(boundaries(path)):
        hasher = hashlib.sha256()
        for piece in read_part(path, begin, end):
            whole.update(piece)
            hasher.update(piece)
        chunks.append(Chunk(Digest(f"sha256:{hasher.hexdigest()}"), end - begin))
    if whole.hexdigest() != digest.hex:
        raise InputError(f"{path} changed while it was read.", hint="Let what writes to it end, then retry.")
    return ChunkList(digest, tuple(chunks))


def _compact(body: dict[str, object]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _damaged(digest: Digest) -> IntegrityError:
    return IntegrityError(
        f"The list of chunks of the blob {digest} is damaged.",
        hint="Restore it from a backup, or publish the same files again.",
    )
