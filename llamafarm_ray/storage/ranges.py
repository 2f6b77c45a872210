"""Parts of files: of local ones, and of objects by ranged requests, several at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from fsspec import AbstractFileSystem

__all__ = ["PIECE_BYTES", "Part", "fetch_parts", "read_part"]

PIECE_BYTES = 256 * 1024
"""Bytes that are read, hashed and written at once: they stay in a processor's cache; 1 MiB took twice as long."""
_RANGE_BYTES = 8 * 1024 * 1024
"""Bytes of one request to an object store."""
_RANGES_AT_ONCE = 4
_SMALL_RANGES_AT_ONCE = 32

Part = tuple[str, int, int]
"""A file, and the offsets where the part begins and ends."""


def read_part(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a local file from ``begin`` up to ``end``, fewer where it is shorter."""
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        while begin < end and (piece := file.read(min(PIECE_BYTES, end - begin))):
            yield piece
            begin += len(piece)


def fetch_parts(fs: AbstractFileSystem, parts: Iterable[Part]) -> Iterator[bytes]:
    """Yield the bytes of parts of objects, one part after another.

    Args:
        parts: the parts, by the objects' paths.
    """
    ranges = (
        (path, first, min(end, first + _RANGE_BYTES))
        for path, begin, end in parts
        for first in range(begin, end, _RANGE_BYTES)
    )
    for batch in _batches(ranges):
        for data in fs.cat_ranges(*map(list, zip(*batch, strict=True)), on_error="return"):
            if isinstance(data, Exception):
                raise data
            yield from (data[offset : offset + PIECE_BYTES] for offset in range(0, len(data), PIECE_BYTES))


def _batches(ranges: Iterable[Part]) -> Iterator[list[Part]]:
    """Yield ranges to fetch at once: a few large ones, or more small ones with as many bytes together."""
    batch: list[Part] = []
    num_bytes = 0
    for one in ranges:
        num_bytes += one[2] - one[1]
        if batch and (num_bytes > _RANGES_AT_ONCE * _RANGE_BYTES or len(batch) == _SMALL_RANGES_AT_ONCE):
            yield batch
            batch, num_bytes = [], one[2] - one[1]
        batch.append(one)
    if batch:
        yield batch
