"""File locks between threads and processes (flock), for a block, and for as long as a process lives.

Lock files are never deleted: a waiting process would then hold a lock that no other process sees. A lock ends with its
process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["exclusive", "hold", "let_go", "try_exclusive"]


@dataclass(slots=True)
class _Held:
    """A shared lock of this process: its file's descriptor, and how many hold it."""

    descriptor: int
    holders: int = 0


_held: dict[str, _Held] = {}
"""By the lock file's path."""
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
    """Hold a lock alone if it is free; return True if it was."""
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
    """Share a lock until as many calls of :func:`let_go`, or the process's end; set the file's time to now."""
    key = os.fspath(path.absolute())
    with _held_guard:
        if key not in _held:
            descriptor = _open(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            except BaseException:  # Ctrl-C too, since the lock may be waited for
                os.close(descriptor)
                raise
            _held[key] = _Held(descriptor)
        _held[key].holders += 1
        os.utime(_held[key].descriptor)


def let_go(path: Path) -> None:
    """Release a lock of :func:`hold`; do nothing if it is free."""
    key = os.fspath(path.absolute())
    with _held_guard:
        held = _held.get(key)
        if held is None:
            return
        held.holders -= 1
        if not held.holders:
            del _held[key]
            os.close(held.descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
