"""One builder of compiled parts at a time, whatever happened to the one before."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from llamafarm_ray.errors import TrainingError

__all__ = ["only_builder"]

_BUILD_TIMEOUT_S = 900.0


@contextlib.contextmanager
def only_builder(folder: Path, timeout_s: float = _BUILD_TIMEOUT_S) -> Iterator[None]:
    """Let one process of this machine at a time compile into ``folder``; the others wait, then find it built.

    torch marks a build with a file ``lock`` that outlives a killed process, and on which the next one would wait for
    ever. Here a lock of the operating system, which dies with its process, is taken first: its holder knows that no
    process uses a ``lock`` file that is left, and removes it.

    Raises:
        TrainingError: another process still builds after ``timeout_s`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "builder").open("w", encoding="utf-8") as guard:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrainingError(
                        f"Another process has been compiling DeepSpeed's parts in {folder} for {timeout_s:.0f} s.",
                        hint="End it, or wait and try again.",
                    ) from None
                time.sleep(0.2)
        for stale in folder.rglob("lock"):
            stale.unlink(missing_ok=True)
        yield
