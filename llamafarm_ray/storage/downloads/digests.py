"""Digests of files that were fetched, and of their pieces."""

from __future__ import annotations

import hashlib
from pathlib import Path

import xxhash

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.storage.ranges import PIECE_BYTES as READ_BYTES

__all__ = ["git_digest", "piece_hasher", "wrong_digest"]


def piece_hasher() -> xxhash.xxh3_128:
    """Return a hasher of a piece's bytes, whose digest the sidecar keeps.

    It finds bytes that a kill or a crash left damaged on this disk, at a tenth of SHA-256's time. The SHA-256 of the
    whole file shows whether its bytes are those that were announced.
    """
    return xxhash.xxh3_128()


def git_digest(path: Path, size_bytes: int) -> str:
    """Return the name that git gives a file: the SHA-1 of its length and bytes, in hex."""
    hasher = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            hasher.update(data)
    return hasher.hexdigest()


def wrong_digest(name: str, expected: str, found: str) -> IntegrityError:
    """Return the error of a file whose bytes are not those that were announced."""
    return IntegrityError(
        f"{name} was announced with the digest {expected}, and its bytes have {found}. It was deleted.",
        hint="Try again; if it stays so, the source, or a proxy before it, is damaged.",
    )
