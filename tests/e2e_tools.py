"""Running the project's commands as processes of their own."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from patience import patience

from llamafarm_ray.clusters.ports import free_ports

ROOT = Path(__file__).parents[1]
BIN = ROOT / ".venv" / "bin"


def environment(**more):
    """Return this process's environment without what points at another Ray, or at the `make` that runs the tests."""
    others = ("RAY_", "LLAMAFARM_", "MAKE", "MFLAGS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{kept['PATH']}", **more}


def agent_ports():
    """Options of `ray start` that say its agents' ports.

    A raylet waits 15 s for an agent to say one that it chose itself, and ends where a busy machine takes longer.
    """
    names = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
    return [f"--{name}-port={port}" for port, name in enumerate(names, start=free_ports(len(names)))]


END_S = 3.0
"""Time that children get to end by themselves. Some of Ray's ignore SIGTERM, or wait for a GCS that has ended."""


@contextmanager
def running(command, log, **options):
    """Run a process for the time of a block, and end it and its children after it."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, **options)
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for number in (signal.SIGTERM, signal.SIGKILL):
            for one in (process, *children):
                with suppress(ProcessLookupError, psutil.NoSuchProcess):  # whose pid may be another's by now
                    one.send_signal(number)
            psutil.wait_procs(children, timeout=END_S if number == signal.SIGTERM else 20)
        process.wait(timeout=20)


def wait_for(url, process, log, *, headers=None, timeout_s=120):
    """Return once a URL answers 200; fail with the log if the process ends or the time is over.

    Args:
        timeout_s: seconds on a quiet machine.
    """
    deadline = time.monotonic() + patience(timeout_s)
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(url, headers=headers, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"{url} did not answer:\n{log.read_text()[-4000:]}")
