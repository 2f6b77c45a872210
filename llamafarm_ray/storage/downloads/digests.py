"""Digests of files that were fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.storage.ranges import PIECE_BYTES as READ_BYTES

__all__ = ["git_digest", "wrong_digest"]


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
