"""Limits of a process that reads untrusted files."""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ["limit_memory", "lower_limit"]

_MEMORY_NOW = Path("/proc/self/statm")


def limit_memory(num_bytes: int) -> None:
    """Allow so much address space beyond the current use; only on systems that report the use."""
    if _MEMORY_NOW.exists():
        used = int(_MEMORY_NOW.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        lower_limit(resource.RLIMIT_AS, used + num_bytes)


def lower_limit(kind: int, value: int) -> None:
    """Lower a soft limit of this process to a value, and not above its hard limit.

    Args:
        kind: one of the ``RLIMIT_`` constants of `resource`.
    """
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
