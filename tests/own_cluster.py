"""A Ray node of a test's own: its ports, folder and token are nobody else's."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from e2e_tools import BIN, ROOT, agent_ports, environment, running, wait_for

from llamafarm_ray.clusters.ports import free_port

__all__ = ["joined", "own_cluster"]


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
    command += [f"--temp-dir={folder}", f"--dashboard-port={dashboard}", *agent_ports()]
    try:
        with running(command, folder / "start.log", env=reaching, cwd=ROOT) as process:
            headers = {"Authorization": f"Bearer {token}"}
            wait_for(f"http://127.0.0.1:{dashboard}/api/version", process, folder / "start.log", headers=headers)
            yield process, reaching | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def joined(variables, num_cpus=1):
    """One more node of a cluster, on this machine, for the time of a block; gives its process and its id."""
    folder = Path(tempfile.mkdtemp(prefix="rn-"))
    before = _nodes(variables)
    command = [str(BIN / "ray"), "start", "--block", f"--address={variables['RAY_ADDRESS']}", f"--num-cpus={num_cpus}"]
    command += agent_ports()
    try:
        with running(command, folder / "start.log", env=variables, cwd=ROOT) as process:
            while not (new := _nodes(variables) - before):
                assert process.poll() is None, (folder / "start.log").read_text()
            yield process, new.pop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _nodes(variables):
    """The ids of the nodes that are alive."""
    code = "import ray; ray.init(logging_level='ERROR'); print(*(n['NodeID'] for n in ray.nodes() if n['Alive']))"
    done = subprocess.run([sys.executable, "-c", code], env=variables, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return set(done.stdout.decode().splitlines()[-1].split())
