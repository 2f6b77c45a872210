"""Largest size of a file, by its type."""

from __future__ import annotations

from llamafarm_ray.data import readers
from llamafarm_ray.data.sources.containers import MAX_CONTAINER_BYTES, is_container

__all__ = ["max_bytes_of"]


def max_bytes_of(name: str) -> int:
    """Return the most bytes that are read of a file of this name."""
    return MAX_CONTAINER_BYTES if is_container(name) else readers.max_bytes_of(name)
