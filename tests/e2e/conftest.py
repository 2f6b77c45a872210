"""README's own commands, run as a user runs them. The demo runs once; what it made is used by the other tests."""

import dataclasses
import json
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from e2e_tools import BIN, ROOT, environment, running, wait_for

from llamafarm_ray.clusters.ports import free_port, free_ports


@dataclasses.dataclass
class DemoRun:
    """What `make demo` printed, wrote and left."""

    output: str
    returncode: int
    runs: Path
    temporary: Path

    @property
    def folder(self):
        return next(self.runs.glob("demo-*"))

    @property
    def base(self):
        return self.runs / "tiny"

    @property
    def summary(self):
        return json.loads((self.folder / "demo-summary.json").read_text(encoding="utf-8"))

    def found(self, key):
        return next(step[key] for step in self.summary["steps"] if key in step)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    temporary = Path(tempfile.mkdtemp(prefix="e-"))  # short: Ray puts sockets below it
    result = subprocess.run(
        ["make", "demo", f"ARGS=--tiny --runs {runs}"],
        cwd=ROOT,
        env=environment(TMPDIR=str(temporary)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    yield DemoRun(result.stdout, result.returncode, runs, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


@dataclasses.dataclass
class RayHead:
    """A cluster of one node, started with `ray start`, with its own ports, folder and token."""

    address: str
    dashboard: str
    environment: dict[str, str]

    def run(self, *command):
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def ray_head():
    folder = Path(tempfile.mkdtemp(prefix="rh-"))
    ports = free_ports(50)
    lines = (ROOT / "serve_configs" / "serve.env").read_text(encoding="utf-8").splitlines()
    proxy = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports + 49),
    }
    port, dashboard = free_port(), f"http://127.0.0.1:{free_port()}"
    variables = environment(
        **dict(line.split("=") for line in lines if not line.startswith("#")),
        **proxy,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
    )
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=4", f"--temp-dir={folder}"]
    command += [f"--dashboard-port={dashboard.rpartition(':')[2]}", f"--dashboard-agent-listen-port={free_port()}"]
    log = folder / "start.log"
    with running(command, log, env=variables, cwd=ROOT) as process:
        token = {"Authorization": f"Bearer {variables['RAY_AUTH_TOKEN']}"}
        wait_for(f"{dashboard}/api/version", process, log, headers=token)
        variables |= {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_DASHBOARD_ADDRESS": dashboard}
        yield RayHead(f"127.0.0.1:{port}", dashboard, variables)
    shutil.rmtree(folder, ignore_errors=True)
