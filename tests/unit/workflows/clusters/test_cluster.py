"""A local Ray's folder has a name that sockets fit below, wherever temporary files go."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import pytest
from patience import patience

from llamafarm_ray.clusters import local_ray
from llamafarm_ray.clusters.local_ray import _proxy_environment, _short_temporary_folder
from llamafarm_ray.errors import InputError
from llamafarm_ray.workflows.clusters import cluster
from llamafarm_ray.workflows.clusters.cluster import LOCAL


@pytest.mark.parametrize("length", [4, 17, 18, 60, 200])
def test_haproxys_socket_paths_fit_however_long_the_temporary_folder_is(tmp_path, monkeypatch, length):
    monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * (length - 1))
    folder = f"{_short_temporary_folder()}/lf-12345678"
    node = "0" * 54
    for name in ("admin.sock", "metrics.sock"):
        assert len(f"{folder}/{node}/{name}") <= 97
    assert _short_temporary_folder() in {tempfile.tempdir, "/tmp"}  # noqa: S108


def test_two_clusters_on_a_machine_share_no_file_and_no_port(tmp_path):
    first, second = (_proxy_environment(tmp_path / name) for name in ("a", "b"))
    assert all(first[name] != second[name] for name in first if not name.endswith(("HTTP_PORT", "BINARY_PATH")))


@pytest.fixture
def started(monkeypatch):
    """Instead of a Ray: what was so while one started."""
    seen = {}

    def start(_folder, *, with_dashboard):
        seen["watcher"] = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
        deadline = time.monotonic() + patience(20)
        while "colorsys" not in sys.modules and time.monotonic() < deadline:
            time.sleep(0.01)
        seen["imported"] = "colorsys" in sys.modules
        return ""

    monkeypatch.setattr(local_ray, "_start", start)
    monkeypatch.setattr(local_ray, "end_leftovers", lambda _: [])
    monkeypatch.setattr(cluster, "_info", lambda *_, **__: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    return seen


def test_a_module_is_imported_while_a_ray_of_its_own_starts(started):
    with cluster.connect(LOCAL, meanwhile="colorsys"):
        assert started["imported"]


def test_a_module_is_imported_while_a_ray_that_stays_is_joined(started, monkeypatch):
    @contextlib.contextmanager
    def join(_standing):
        yield local_ray._start("", with_dashboard=False)

    monkeypatch.setattr(cluster, "find", lambda: SimpleNamespace(address="127.0.0.1:6379"))
    monkeypatch.setattr(cluster, "_joined_standing", join)
    with cluster.connect(None, meanwhile="colorsys"):
        assert started == {"imported": True, "watcher": "0"}
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in os.environ


def test_a_module_that_can_t_be_imported_is_the_blocks_affair(started, monkeypatch):
    monkeypatch.setitem(sys.modules, "colorsys", object())
    with cluster.connect(LOCAL, meanwhile="no_such_module"):
        assert started


def test_only_a_ray_of_its_own_goes_without_notices(started, monkeypatch):
    monkeypatch.setitem(sys.modules, "colorsys", object())
    with cluster.connect(LOCAL):
        assert started["watcher"] == "0"
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in os.environ, "the next cluster may be one whose machines go"
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1")
    with cluster.connect(LOCAL):
        assert started["watcher"] == "1"
    assert os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "1"


@pytest.mark.parametrize(
    ("host", "is_own"), [("127.0.0.1", True), ("localhost", True), ("192.0.2.77", False), ("nowhere.invalid", False)]
)
def test_this_users_token_is_for_rays_of_this_machine(monkeypatch, host, is_own):
    """192.0.2.0/24 is for documentation: https://www.rfc-editor.org/rfc/rfc5737."""
    import ray

    shown = []

    def init(**_):
        raise ConnectionError("no cluster")

    monkeypatch.setattr(cluster.socket, "create_connection", lambda *_, **__: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(cluster, "_take_own_token", lambda: shown.append(host))
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InputError, match="No Ray cluster") as refused:
        cluster._join(f"{host}:6379")
    assert "RAY_AUTH_TOKEN" in refused.value.hint, "something answers there, and may ask for another token"
    assert shown == [host] * is_own


def test_who_connects_has_not_imported_ray_before_its_environment_is_set():
    asked = "import sys, llamafarm_ray.workflows.clusters.cluster; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


@pytest.mark.parametrize(("bound", "is_alone"), [("127.0.0.1", True), ("0.0.0.0", False)])  # noqa: S104
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_ray_that_was_started_here_is_told_from_one_for_many_machines(bound, is_alone, host):
    with socket.create_server((bound, 0)) as server:
        assert cluster._is_on_loopback_alone(f"{host}:{server.getsockname()[1]}") is is_alone
    assert not cluster._is_on_loopback_alone("192.0.2.77:6379")
    assert not cluster._is_on_loopback_alone("auto")


def test_rays_variable_is_the_one_that_it_reads():
    from ray._private import ray_constants

    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == local_ray._MANY_MACHINES


def test_an_address_or_the_environment_names_a_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not cluster.names_cluster(None)
    assert not cluster.names_cluster(LOCAL)
    assert cluster.names_cluster("10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert cluster.names_cluster(None)
    assert not cluster.names_cluster(LOCAL)


def test_a_second_hang_up_does_not_end_the_clean_up():
    cleaned = []

    def block():
        with cluster.ended_by_signals():
            try:
                os.kill(os.getpid(), signal.SIGHUP)
            finally:
                os.kill(os.getpid(), signal.SIGHUP)
                cleaned.append(True)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            block()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended.value.code == 128 + signal.SIGHUP
    assert cleaned
