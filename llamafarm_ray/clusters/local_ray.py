"""A Ray on this machine, on its loopback interface alone. Every Ray that this package starts is started here."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llamafarm_ray.clusters import fork_server, forked_worker
from llamafarm_ray.clusters.leftovers import end_leftovers, marked_as
from llamafarm_ray.clusters.ports import free_port, free_ports
from llamafarm_ray.clusters.ray_private import named_agent_ports, on_loopback, workers_started_by
from llamafarm_ray.errors import ClusterError
from llamafarm_ray.serving import haproxy
from llamafarm_ray.serving.application import SERVE_ENV
from llamafarm_ray.serving.ray_serve.token import make_token

__all__ = ["default", "local_ray", "prepare_environment"]

_AT_PAR = {"worker_niceness": 0}
"""By default workers have a niceness of 15. The kernel takes a busy engine of that for a light load and puts what else
there is to do on its core: it had 8 % fewer tokens a second on two cores."""
_UNWATCHED = {
    **_AT_PAR,
    "enable_metrics_collection": False,
    "enable_timeline": False,
    "event_stats": False,
    "task_events_report_interval_ms": 0,
}
"""Settings that turn off statistics for a dashboard: collecting them took 7% of a training on two cores."""
_DASHBOARD_S = "300"
"""Seconds that a dashboard, ten processes, has to start on a busy machine; by default 60. One that ends is noticed."""
_MANY_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Variable for a Ray of several machines; its processes read it when they import Ray, on every system."""
_LONGEST_TEMPORARY_FOLDER = 97 - len("/lf-12345678/" + 54 * "0" + "/metrics.sock")
"""HAProxy takes socket paths of 97 characters, and Ray adds the node's id to ours."""
_SERVER_END_S = 5.0
_MIN_LOCAL_CPUS = 4
"""Ray counts CPUs to decide what may run at once, and waits for ever when there are fewer than parts of one job."""


def prepare_environment() -> None:
    """Set the environment that Ray's parts read when they are imported. To be called before the first import."""
    os.environ.update(SERVE_ENV)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DASHBOARD_STARTUP_TIMEOUT_S", _DASHBOARD_S)
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")  # an actor that reports on each build to Ray's authors


@contextmanager
def local_ray(*, with_dashboard: bool, forks_with: Sequence[str] = ()) -> Iterator[tuple[Path, str]]:
    """Start a Ray for the time of a block, and connect to it; then end every process that it started.

    Args:
        forks_with: modules that one process imports, and that its workers are forked with; not where there are GPUs,
            which a fork can't use, and on Linux alone. Without any, each worker is an interpreter of its own.

    Yields:
        the folder that holds everything of it, and the dashboard's ``host:port``, empty without one.

    Raises:
        ClusterError: it can't be started.
    """
    import ray  # after the environment that its parts read when they are imported

    folder = Path(tempfile.mkdtemp(prefix="lf-", dir=_short_temporary_folder()))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(end_leftovers, folder)
        os.environ.update(_proxy_environment(folder))
        if forks_with and sys.platform == "linux" and not _has_gpus():
            stack.enter_context(_fork_server(folder, forks_with))
        stack.callback(ray.shutdown)
        with marked_as(folder):
            yield folder, _start(folder, with_dashboard=with_dashboard)


def _start(folder: Path, *, with_dashboard: bool) -> str:
    """Start a Ray that keeps everything in ``folder``, and return its dashboard's address."""
    import ray

    try:
        make_token()
        with on_loopback(), named_agent_ports(), default(_MANY_MACHINES, "0"):  # drivers of jobs there inherit it
            context = ray.init(
                address="local",
                num_cpus=max(_MIN_LOCAL_CPUS, os.cpu_count() or 1),
                include_dashboard=with_dashboard,  # ten processes, whose start a short command would wait for
                dashboard_host="127.0.0.1",
                dashboard_port=free_port(),
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder / "ray"),
                _system_config=_AT_PAR if with_dashboard else _UNWATCHED,
            )
    except Exception as error:  # Ray raises a bare one where a part of it starts too slowly
        hint = "Is the disk full, or the machine too busy for a Ray to start within half a minute?"
        raise ClusterError(f"A local Ray could not be started: {str(error).rstrip('.')}.", hint=hint) from error
    return str(context.dashboard_url or "")


@contextmanager
def _fork_server(folder: Path, modules: Sequence[str]) -> Iterator[None]:
    """Fork the workers of a Ray that is started in the block from a process of their own.

    It has no mark: commands that are forked from it may use another Ray, and outlive this one.
    """
    path = folder / forked_worker.SOCKET_NAME
    with (folder / "fork-server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(  # our own module; -P: not the modules of the current folder
            [sys.executable, "-P", "-m", fork_server.__name__, str(path), ",".join(modules)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    before = os.environ.get(forked_worker.SOCKET_VARIABLE)  # of the Ray that this process was forked for
    os.environ[forked_worker.SOCKET_VARIABLE] = str(path)
    try:
        with workers_started_by(Path(forked_worker.__file__)):
            yield
    finally:
        os.environ.pop(forked_worker.SOCKET_VARIABLE, None)
        if before is not None:
            os.environ[forked_worker.SOCKET_VARIABLE] = before
        _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End a server by the end of its standard input; kill one that hangs in an import."""
    if server.stdin is not None:
        server.stdin.close()
    try:
        server.wait(_SERVER_END_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _has_gpus() -> bool:
    devices = Path("/dev")
    return any(devices.glob("nvidia[0-9]*")) or any((devices / name).exists() for name in ("kfd", "dxg"))


@contextmanager
def default(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the time of a block, unless it is set."""
    is_ours = name not in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if is_ours:
            os.environ.pop(name, None)


def _short_temporary_folder() -> str:
    """Return the system's folder for temporary files, or /tmp where HAProxy's socket paths would get too long."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _LONGEST_TEMPORARY_FOLDER else "/tmp"  # noqa: S108


def _proxy_environment(folder: Path) -> dict[str, str]:
    """Return ports and files of HAProxy for this Ray alone, so that two on one machine don't meet; and its program."""
    ports = free_ports(100)
    program = os.environ.get(haproxy.PATH_VARIABLE) or haproxy.command()
    named = {haproxy.PATH_VARIABLE: str(program)} if program is not None else {}
    return named | {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports + 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports + 2),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports + 3),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports + 99),
    }
