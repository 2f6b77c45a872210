"""File locks between threads and processes (flock), of two sorts: for a moment, and for as long as a process lives.

Lock files are never deleted: whoever waits for one would then hold a lock that nobody else sees. A lock goes with its
process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["exclusive", "hold", "let_go", "try_exclusive"]

_held: dict[str, int] = {}
"""The descriptors of the shared locks this process holds, by the lock file's path."""
_held_guard = threading.Lock()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock alone, waiting for it."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def try_exclusive(path: Path) -> Iterator[bool]:
    """Hold a lock alone if nobody has it now; whether that is so."""
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def hold(path: Path) -> None:
    """Share a lock until :func:`let_go` or the process's end, and set the file's time to now."""
    key = os.fspath(path.absolute())
    with _held_guard:
        if key not in _held:
            descriptor = _open(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            except BaseException:
                os.close(descriptor)
                raise
            _held[key] = descriptor
        os.utime(_held[key])


def let_go(path: Path) -> None:
    """End what :func:`hold` began; nothing where it didn't."""
    with _held_guard:
        descriptor = _held.pop(os.fspath(path.absolute()), None)
        if descriptor is not None:
            os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
