"""A Ray node of a test's own: its ports, folder and token are nobody else's."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from e2e_tools import BIN, ROOT, environment, free_port, running, wait_for

__all__ = ["own_cluster"]


@contextmanager
def own_cluster(num_cpus=4, **variables):
    """Start a node; gives its process and the environment that reaches it. Workers import this folder's modules."""
    folder = Path(tempfile.mkdtemp(prefix="rc-"))
    port, dashboard = free_port(), free_port()
    token = secrets.token_hex(32)
    reaching = environment(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}", **variables
    )
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", f"--num-cpus={num_cpus}"]
    command += [f"--temp-dir={folder}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    try:
        with running(command, folder / "start.log", env=reaching, cwd=ROOT) as process:
            headers = {"Authorization": f"Bearer {token}"}
            wait_for(f"http://127.0.0.1:{dashboard}/api/version", process, folder / "start.log", headers=headers)
            yield process, reaching | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
