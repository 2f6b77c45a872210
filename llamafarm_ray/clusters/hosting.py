"""The process that starts a Ray that stays, and is its first driver: ``python -m llamafarm_ray.clusters.hosting``.

It says on standard output where the Ray is, in one line of JSON, and ends with its standard input, when Ray's processes
end, or once the Ray was idle for the time that is set.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time

import psutil

from llamafarm_ray.clusters.fork_server import MODULES
from llamafarm_ray.clusters.local_ray import local_ray, prepare_environment

__all__ = ["main"]

_LOOK_S = 1.0
_IDLE_LOOK_S = 5.0
_ESSENTIAL = {"raylet", "gcs_server"}


def main(arguments: list[str]) -> str:
    """Start Ray, stay as long as it is wanted, and return the reason of the end.

    Args:
        arguments: seconds without use after which Ray ends (0: never), and "dashboard" or "no-dashboard".
    """
    idle_timeout_s, with_dashboard = float(arguments[0]), arguments[1] == "dashboard"
    output, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints goes to the log
    over = threading.Event()
    threading.Thread(target=_wait_for_keeper, args=(over,), name="llamafarm-keeper", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    prepare_environment()
    with local_ray(with_dashboard=with_dashboard, forks_with=MODULES) as (folder, dashboard):
        import ray  # after the environment that its parts read when they are imported

        address = ray.get_runtime_context().gcs_address
        where = {"address": address, "dashboard": dashboard, "folder": str(folder), "ray_version": ray.__version__}
        output.write(json.dumps(where) + "\n")
        output.flush()
        return _stay(over, idle_timeout_s)


def _wait_for_keeper(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


def _stay(over: threading.Event, idle_timeout_s: float) -> str:
    """Return the reason why Ray is to end, once there is one."""
    from llamafarm_ray.clusters.activity import idle_s

    began, looked = time.time(), time.monotonic()
    while not over.wait(_LOOK_S):
        names = {child.name() for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}
        if missing := _ESSENTIAL - names:
            return f"{' and '.join(sorted(missing))} ended"
        if idle_timeout_s and time.monotonic() - looked >= min(_IDLE_LOOK_S, idle_timeout_s / 2):
            looked = time.monotonic()
            if idle_s(began) >= idle_timeout_s:
                return f"nobody used it for {idle_timeout_s:g} s"
    return "it was told to end"


if __name__ == "__main__":
    sys.stderr.write(f"Ray ends: {main(sys.argv[1:])}.\n")
