"""README's own commands, run as a user runs them. The demo runs once; what it made is used by the other tests."""

import dataclasses
import json
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from e2e_tools import BIN, ROOT, agent_ports, environment, running, wait_for
from failure_logs import watch

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


def pytest_collection_modifyitems(items):
    """Put the tests that don't need the demo first: they run beside it, and the others wait for its end."""
    items.sort(key=lambda item: item.path.is_relative_to(ROOT / "tests" / "e2e") and "demo" in item.fixturenames)


@pytest.fixture(scope="session")
def started_demo(tmp_path_factory):
    """The demo's process, its folders and the file that gets its output, once its base model is made and Ray is up.

    Both take all cores, and Ray gives its processes half a minute to start; later steps leave time to others.
    """
    runs = tmp_path_factory.mktemp("runs")
    temporary = Path(tempfile.mkdtemp(prefix="e-"))  # short: Ray puts sockets below it
    output = runs.with_name("demo.log")
    command = ["make", "demo", f"ARGS=--runs {runs}"]
    with running(command, output, env=environment(TMPDIR=str(temporary)), cwd=ROOT) as process:
        while process.poll() is None and "Dashboard: " not in output.read_text(encoding="utf-8", errors="replace"):
            time.sleep(0.1)
        yield process, runs, temporary, output
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def beside_the_demo(request):
    """Start the demo before the first test, where any test needs it."""
    if any("demo" in item.fixturenames for item in request.session.items):
        request.getfixturevalue("started_demo")


@pytest.fixture(scope="session")
def demos_base(started_demo):
    """The demo's base model, which is there before the demo has ended."""
    _, runs, _, output = started_demo
    assert (runs / "tiny" / "base.json").exists(), output.read_text(encoding="utf-8")[-6000:]
    return runs / "tiny"


@pytest.fixture(scope="session")
def demo(started_demo):
    process, runs, temporary, output = started_demo
    returncode = process.wait()
    return DemoRun(output.read_text(encoding="utf-8", errors="replace"), returncode, runs, temporary)


@dataclasses.dataclass
class RayHead:
    """A cluster of one node, started with `ray start`, with its own ports, folder and token."""

    address: str
    dashboard: str
    environment: dict[str, str]
    folder: Path

    def run(self, *command):
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def ray_head():
    folder = Path(tempfile.mkdtemp(prefix="rh-"))
    watch(folder)
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
        RAY_DASHBOARD_STARTUP_TIMEOUT_S="300",
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
    )
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=4", f"--temp-dir={folder}"]
    command += [f"--dashboard-port={dashboard.rpartition(':')[2]}", *agent_ports()]
    log = folder / "start.log"
    with running(command, log, env=variables, cwd=ROOT) as process:
        token = {"Authorization": f"Bearer {variables['RAY_AUTH_TOKEN']}"}
        wait_for(f"{dashboard}/api/version", process, log, headers=token)
        variables |= {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_DASHBOARD_ADDRESS": dashboard}
        yield RayHead(f"127.0.0.1:{port}", dashboard, variables, folder)
    shutil.rmtree(folder, ignore_errors=True)
