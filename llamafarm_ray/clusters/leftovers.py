"""Processes that a local Ray started and that outlive it: found by a mark in their environment, ended by pid.

A worker that is blocked at its exit stays when its raylet is gone, and so do processes that a worker started. The mark
is inherited by all of them, also where their parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import psutil

__all__ = ["MARK", "end_leftovers", "marked", "marked_as"]

MARK = "LLAMAFARM_LOCAL_RAY"
"""The environment variable whose value is the folder of the Ray that a process belongs to."""
_GRACE_S = 3.0
"""Time that workers get to end by themselves once their raylet has ended."""
_KILL_S = 5.0
_POLL_S = 0.02


@contextlib.contextmanager
def marked_as(folder: Path) -> Iterator[None]:
    """Mark the processes that are started in the block as those of the Ray in ``folder``.

    Python's own resource tracker, which it starts when it is first needed, stays this process's.
    """
    resource_tracker.ensure_running()
    before = os.environ.get(MARK)
    os.environ[MARK] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(MARK, None)
        if before is not None:
            os.environ[MARK] = before


def marked(folder: Path) -> list[psutil.Process]:
    """Return the running processes of the Ray in ``folder``, this process apart."""
    line = f"{MARK}={folder}".encode()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):  # it has ended, or is another user's
            variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if line in variables and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_leftovers(folder: Path, *, grace_s: float = _GRACE_S) -> list[str]:
    """End the processes of the Ray in ``folder`` that still run ``grace_s`` seconds from now.

    Returns:
        The names of the processes that had to be killed.
    """
    deadline = time.monotonic() + grace_s
    while (left := marked(folder)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    killed = []
    deadline = time.monotonic() + _KILL_S
    while left and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                killed.append(process.name())
                process.kill()  # psutil compares the time of its start: a pid that is used again is left alone
        psutil.wait_procs(left, timeout=1)
        left = marked(folder)  # also what they started meanwhile
    return killed
