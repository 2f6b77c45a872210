"""The process of `llamafarm_ray.data.sources.guarded`: work comes over a connection, and its results go back."""

from __future__ import annotations

import math
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

__all__ = ["main"]

_GRACE_S = 5
_MEMORY_NOW = Path("/proc/self/statm")


def main() -> None:
    """Work until the other side is gone. Arguments: a file descriptor, seconds a result, bytes of memory."""
    connection, seconds, memory_bytes = Connection(int(sys.argv[1])), float(sys.argv[2]), int(sys.argv[3])
    connection.send(None)
    while True:
        try:
            work, arguments = connection.recv()
        except EOFError:
            return
        _limit_memory(memory_bytes)
        # A parent that was killed ends nobody: the alarm ends this process, inside a library's loop too.
        _alarm(seconds)
        for result in work(*arguments):
            signal.alarm(0)  # the other side may be slow to take it
            connection.send(result)
            _alarm(seconds)
        signal.alarm(0)
        connection.send(None)


def _alarm(seconds: float) -> None:
    signal.alarm(math.ceil(seconds) + _GRACE_S)


def _limit_memory(num_bytes: int) -> None:
    """Allow so much address space beyond what is in use; only where the system says how much that is."""
    if _MEMORY_NOW.exists():
        used = int(_MEMORY_NOW.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
