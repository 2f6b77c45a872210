"""The process of `llamafarm_ray.data.sources.guarded`: work comes over a connection, and its results go back."""

from __future__ import annotations

import math
import signal
import sys
from multiprocessing.connection import Connection

from llamafarm_ray.storage.process_limits import limit_memory

__all__ = ["main"]

_GRACE_S = 5


def main() -> None:
    """Work until the other side is gone. Arguments: a file descriptor, seconds a result, bytes of memory."""
    connection, seconds, memory_bytes = Connection(int(sys.argv[1])), float(sys.argv[2]), int(sys.argv[3])
    connection.send(None)
    while True:
        try:
            work, arguments = connection.recv()
        except EOFError:
            return
        limit_memory(memory_bytes)
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


if __name__ == "__main__":
    main()
