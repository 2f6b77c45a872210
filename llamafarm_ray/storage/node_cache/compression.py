"""Blobs compressed by zstandard: written whole, read from any offset, and estimated from samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.storage.ranges import PIECE_BYTES, read_part
from llamafarm_ray.types import Digest

__all__ = ["LEAST_SAVED", "SUFFIX", "compress", "estimated_bytes", "expanded", "is_compressed_form", "open_compressed"]

SUFFIX = ".zst"
LEAST_SAVED = 0.05
"""Share of a file's bytes that compression has to save; files that it saves less of stay as they are."""
_LEVEL = 3
_SAMPLES = 16
_SAMPLE_BYTES = 1024 * 1024


def compress(source: Path, target: Path) -> None:
    """Write a compressed copy of a file, in one frame that has its size.

    Raises:
        OSError: the source can't be read, or the target can't be written.
    """
    with source.open("rb") as plain, target.open("wb") as packed:
        size_bytes = source.stat().st_size
        zstandard.ZstdCompressor(level=_LEVEL).copy_stream(plain, packed, size=size_bytes)


def estimated_bytes(path: Path) -> int:
    """Return about how many bytes a file has once it is compressed, by samples from all parts of it.

    Raises:
        OSError: it can't be read.
    """
    size_bytes = path.stat().st_size
    step = max(_SAMPLE_BYTES, size_bytes // _SAMPLES)
    read = packed = 0
    for begin in range(0, size_bytes, step):
        data = b"".join(read_part(path, begin, begin + _SAMPLE_BYTES))
        read, packed = read + len(data), packed + len(zstandard.compress(data, _LEVEL))
    return round(size_bytes * packed / max(read, 1))


def expanded(path: Path, start: int = 0) -> Iterator[bytes]:
    """Yield the bytes of a compressed file from the offset ``start`` on, in pieces.

    Raises:
        IntegrityError: the file is damaged.
        OSError: it can't be read.
    """
    with open_compressed(path) as file:
        try:
            file.seek(start)  # forward, which reads over what is before
            while piece := file.read(PIECE_BYTES):
                yield piece
        except zstandard.ZstdError as error:
            raise IntegrityError(f"The compressed file {path} is damaged: {error}.") from None


def is_compressed_form(path: Path, digest: Digest) -> bool:
    """Return True if a compressed file has the content of a digest.

    Raises:
        OSError: it can't be read.
    """
    hasher = hashlib.sha256()
    try:
        for piece in expanded(path):
            hasher.update(piece)
    except IntegrityError:
        return False
    return hasher.hexdigest() == digest.hex


def open_compressed(path: Path) -> BinaryIO:
    """Open a compressed file for reading its content from the front."""
    return cast("BinaryIO", zstandard.open(path, "rb"))
