"""Two Ray clusters on one home, one of them killed with everything on it: nothing acknowledged is lost or doubled."""

import secrets
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from e2e_tools import BIN, ROOT, environment, running, wait_for
from model_files import store_note

from llamafarm_ray.clusters.ports import free_port
from llamafarm_ray.registry import open_registry
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.storage import ContentStore, Location

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CLIENT = """
import os, sys
import ray
from llamafarm_ray.registry.remote.client import RegistryClient
from llamafarm_ray.registry.commands import Register
from llamafarm_ray.types import Digest, ModelKind

home, acknowledged, count, manifest = sys.argv[1], sys.argv[2], int(sys.argv[3]), Digest(sys.argv[4])
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
registry = RegistryClient(home)
with open(acknowledged, "a") as file:
    for _ in range(count):
        outcome = registry.submit(Register("bot", ModelKind.CUSTOM, manifest, 1))
        file.write(outcome.events[0].version + "\\n")
        file.flush()
        os.fsync(file.fileno())
"""


@contextmanager
def cluster():
    """A node of its own ports, folder and token; gives its process and the environment that reaches it."""
    folder = Path(tempfile.mkdtemp(prefix="rc-"))
    port, dashboard = free_port(), free_port()
    token = secrets.token_hex(32)
    variables = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}"]
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    with running(command, folder / "start.log", env=variables, cwd=ROOT) as process:
        headers = {"Authorization": f"Bearer {token}"}
        wait_for(f"http://127.0.0.1:{dashboard}/api/version", process, folder / "start.log", headers=headers)
        yield process, variables | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    shutil.rmtree(folder, ignore_errors=True)


def lines(path):
    return path.read_text().split() if path.exists() else []


def wait_for_lines(path, count, process):
    deadline = time.monotonic() + 120
    while len(lines(path)) < count:
        assert process.poll() is None, "the client ended early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_cluster_that_dies_takes_nothing_acknowledged_with_it(tmp_path):
    home, ours, theirs = tmp_path / "home", tmp_path / "ours", tmp_path / "theirs"
    manifest = store_note(ContentStore(Location(home)), "x")

    def client(variables, acknowledged, count):
        command = [sys.executable, "-c", CLIENT, str(home), str(acknowledged), str(count), manifest]
        return running(command, tmp_path / f"{acknowledged.name}.log", env=variables, cwd=ROOT)

    with cluster() as (_, survivor):
        with (
            cluster() as (node, doomed),
            client(doomed, theirs, 10_000) as dying,
            client(survivor, ours, 10_000) as living,
        ):
            wait_for_lines(theirs, 30, dying)
            wait_for_lines(ours, 30, living)
            for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            wait_for_lines(ours, len(lines(ours)) + 30, living)
        before = len(lines(ours))
        with client(survivor, ours, 30) as again:
            wait_for_lines(ours, before + 30, again)
    acknowledged = lines(ours) + lines(theirs)
    registry = open_registry(str(home))
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= set(registry.state.models["bot"].versions)
    unacknowledged = len(registry.state.models["bot"].versions) - len(acknowledged)
    assert unacknowledged <= 2  # the one that each killed client was waiting for
    assert verify(registry.home, blobs=False).problems == ()
