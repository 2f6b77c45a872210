"""The sha256 of a file whose pieces arrive in any order, computed while later ones are on their way."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Container

from llamafarm_ray.storage.ranges import PIECE_BYTES as READ_BYTES
from llamafarm_ray.types import Digest

__all__ = ["InOrderDigest"]


class InOrderDigest:
    """A digest that follows the finished pieces as far as they are without a gap.

    Args:
        size_bytes: the size of the file, where it is known.
    """

    def __init__(self, descriptor: int, piece_bytes: int, size_bytes: int | None) -> None:
        self._descriptor = descriptor
        self._piece_bytes = piece_bytes
        self._size_bytes = size_bytes
        self._hasher = hashlib.sha256()
        self._at = 0
        self._lock = threading.Lock()

    def advance(self, done: Container[int]) -> None:
        """Hash the pieces that are there now, unless another thread is at it."""
        if self._size_bytes is None or not self._lock.acquire(blocking=False):
            return
        try:
            while self._at < self._size_bytes and self._at // self._piece_bytes in done:
                self._hash_up_to(min(self._at + self._piece_bytes, self._size_bytes))
        finally:
            self._lock.release()

    def all_there(self, size_bytes: int) -> None:
        """Take the size of a file that did not tell it."""
        self._size_bytes = size_bytes

    def finish(self) -> Digest:
        """Return the digest of the whole file, all of which is there."""
        with self._lock:
            self._hash_up_to(self._size_bytes or 0)
            return Digest(f"sha256:{self._hasher.hexdigest()}")

    def _hash_up_to(self, end: int) -> None:
        while self._at < end and (data := os.pread(self._descriptor, min(READ_BYTES, end - self._at), self._at)):
            self._hasher.update(data)
            self._at += len(data)
