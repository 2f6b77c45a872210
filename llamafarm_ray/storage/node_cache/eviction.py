"""Eviction plans of a cache: the least valuable versions first, and the freed bytes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.types import Digest

__all__ = ["EvictionPlan", "fetch_cost_s", "plan", "value"]

_START_S = {"local": 0.1, "home": 1.0}
_ELSEWHERE_S = 5.0
_BYTES_PER_S = {"local": 1e9, "home": 1e8}
_ELSEWHERE_BYTES_PER_S = 2e7
_SHORTEST_AGE_S = 1e-3


def fetch_cost_s(place: str, size_bytes: int) -> float:
    """Return about how many seconds it takes to get files again: to ask for them, and to move their bytes.

    Args:
        place: ``local`` for a folder or home of this machine, ``home`` for a home elsewhere, else any other source.
    """
    return _START_S.get(place, _ELSEWHERE_S) + size_bytes / _BYTES_PER_S.get(place, _ELSEWHERE_BYTES_PER_S)


def value(cost_s: float, size_bytes: int, unused_s: float) -> float:
    """Return the worth of each byte of a version: the seconds that it saves, less the longer it was not used.

    Args:
        cost_s: seconds to get it again.
        unused_s: seconds since its last use.
    """
    return cost_s / max(size_bytes, 1) / max(unused_s, _SHORTEST_AGE_S)


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """The versions to evict, in order, and the bytes that each frees after those before it."""

    freed: tuple[tuple[Digest, int], ...]

    @property
    def digests(self) -> list[Digest]:
        """The versions."""
        return [digest for digest, _ in self.freed]

    def freed_bytes(self) -> int:
        """All bytes together."""
        return self.freed_by(self.digests)

    def freed_by(self, digests: Collection[Digest]) -> int:
        """Return the bytes that those of the versions free which did go."""
        return sum(size for digest, size in self.freed if digest in digests)


def plan(folders: Sequence[tuple[Digest, Path]], size_bytes: int, max_bytes: int) -> EvictionPlan:
    """Choose versions until at most ``max_bytes`` are left.

    Args:
        folders: the versions that may go, in that order, and their folders of links to blobs.
        max_bytes: greatest number of bytes that stay.
    """
    links: Counter[int] = Counter()
    freed = []
    for digest, folder in folders:
        if size_bytes <= max_bytes:
            break
        size = 0
        for path in (Path(current, name) for current, _, names in os.walk(folder) for name in names):
            found = path.lstat()
            links[found.st_ino] += 1
            if found.st_nlink - links[found.st_ino] <= 1:  # only the blob's own name is left
                size += found.st_size
        size_bytes -= size
        freed.append((digest, size))
    return EvictionPlan(tuple(freed))
