"""The process that keeps a Ray that stays: ``python -m llamafarm_ray.clusters.keeper``. It imports no Ray.

It starts the Ray in a process of its own, records it, and waits. However that process ends, the keeper takes the record
back, ends what is left of the Ray's processes by pid, and removes its folder. When the keeper ends, so does that
process, since its standard input ends. Only the record is left then, and its next reader removes it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil

from llamafarm_ray.clusters.leftovers import end_leftovers
from llamafarm_ray.clusters.standing import StandingRay, boot_id, record, remove

__all__ = ["main"]

_POLL_S = 0.2
_END_S = 20.0


def main(arguments: list[str]) -> int:
    """Keep a Ray until it ends or SIGTERM comes.

    Args:
        arguments: those of :func:`llamafarm_ray.clusters.hosting.main`.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    command = [sys.executable, "-m", "llamafarm_ray.clusters.hosting", *arguments]
    host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # ours
    where = _first_line(host)
    if where is not None:
        record(_recorded(where, float(arguments[0])))
        while host.poll() is None and not told.wait(_POLL_S):
            pass
    remove(os.getpid())
    _end(host)
    if where is None:
        return 1
    folder = Path(where["folder"])
    for name in end_leftovers(folder):
        sys.stderr.write(f"{name} had to be killed.\n")
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _end(host: subprocess.Popen[str]) -> None:
    """End the host by the end of its standard input; kill it where it does not end."""
    try:
        host.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        host.kill()
        host.wait()


def _first_line(host: subprocess.Popen[str]) -> dict[str, str] | None:
    """Return the place of the host's Ray; None if the host ended before it had one."""
    line = host.stdout.readline() if host.stdout is not None else ""
    return json.loads(line) if line else None


def _recorded(where: dict[str, str], idle_timeout_s: float) -> StandingRay:
    from llamafarm_ray.serving.ray_serve.token import read_token

    return StandingRay(
        address=where["address"],
        dashboard_url=f"http://{where['dashboard']}" if where["dashboard"] else "",
        token=read_token(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        boot_id=boot_id(),
        folder=where["folder"],
        idle_timeout_s=idle_timeout_s,
        ray_version=where["ray_version"],
        python=sys.executable,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
