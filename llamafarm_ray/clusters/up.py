"""Start a Ray of this user that stays on this machine, and end it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from llamafarm_ray.clusters.standing import StandingRay, find, folder_of_records, start_lock
from llamafarm_ray.errors import ClusterError
from llamafarm_ray.serving.ray_serve.token import make_token

__all__ = ["IDLE_TIMEOUT_S", "down", "up"]

IDLE_TIMEOUT_S = 1800.0
_START_S = 180.0
_END_S = 60.0
_POLL_S = 0.05


def up(*, idle_timeout_s: float = IDLE_TIMEOUT_S, with_dashboard: bool = True) -> tuple[StandingRay, bool]:
    """Return the Ray of this user that stays on this machine, and True if it was started by this call.

    Args:
        idle_timeout_s: seconds without use after which it ends; 0: it does not.
        with_dashboard: start its dashboard, too, without which Ray collects no metrics and takes no jobs.

    Raises:
        ClusterError: it can't be started.
    """
    with start_lock():
        if (running := find()) is not None:
            return running, False
        return _start([f"{idle_timeout_s:g}", "dashboard" if with_dashboard else "no-dashboard"]), True


def down() -> StandingRay | None:
    """End the Ray of this user that stays on this machine and all of its processes; return its record.

    Raises:
        ClusterError: its keeper can't be ended.
    """
    with start_lock():
        running = find()
        if running is None:
            return None
        try:
            keeper = psutil.Process(running.pid)
            keeper.terminate()
            keeper.wait(_END_S)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            keeper.kill()
        except psutil.AccessDenied:
            raise ClusterError(f"The process {running.pid} may not be ended.", hint="It is another user's.") from None
        find()  # clears up where the keeper could not
        return running


def _start(arguments: list[str]) -> StandingRay:
    log = folder_of_records() / f"{socket.gethostname()}.log"
    try:
        make_token()
        environment = {**os.environ, "RAY_AUTH_MODE": "token"}
        environment.pop("RAY_ADDRESS", None)
        if "://" not in environment.get("LLAMAFARM_HOME", "://"):
            environment["LLAMAFARM_HOME"] = str(log.parent.parent)  # absolute: the keeper has another current folder
        with log.open("w", encoding="utf-8") as output:
            keeper = subprocess.Popen(  # our own module
                [sys.executable, "-m", "llamafarm_ray.clusters.keeper", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise ClusterError(f"A Ray can't be started: {error}.", hint="Is the disk full?") from error
    deadline = time.monotonic() + _START_S
    try:
        while keeper.poll() is None and time.monotonic() < deadline:
            found = find()
            if found is not None and found.pid == keeper.pid:
                return found
            time.sleep(_POLL_S)
    except BaseException:  # Ctrl-C too: nobody would end the keeper then
        keeper.terminate()
        raise
    with contextlib.suppress(OSError):
        keeper.terminate()
    raise ClusterError(f"Ray did not start: {_last_line(log)}", hint=f"{log} has more.")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it gave no reason.")
