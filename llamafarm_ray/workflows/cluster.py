"""Ray for the time of a command: connect to a cluster, or start one on this machine and stop exactly that one."""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import ClusterError, InputError
from llamafarm_ray.serving import haproxy
from llamafarm_ray.serving.application import SERVE_ENV
from llamafarm_ray.serving.ray_token import close_token, make_token
from llamafarm_ray.workflows.ports import free_port, free_ports

__all__ = ["ClusterInfo", "connect", "connect_if_up", "inside_job", "is_job_server", "quiet"]

_CONNECT_TIMEOUT_S = 15
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
"""What only a dashboard shows; every process of a Ray collects it, which took 7% of a training on two cores."""
_MANY_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Whether a Ray is for more machines than one; its processes read that when they import it, on every system."""
_LONGEST_TEMPORARY_FOLDER = 97 - len("/lf-12345678/" + 54 * "0" + "/metrics.sock")
"""HAProxy takes socket paths of 97 characters, and Ray adds the node's id to ours."""
_MIN_LOCAL_CPUS = 4
"""Ray counts CPUs to decide what may run at once, and waits for ever when there are fewer than parts of one job."""


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """The cluster in use.

    Attributes:
        address: its control address, ``host:port``; what ``--address`` takes.
        dashboard_url: where a person can watch; empty if it has no dashboard.
        started_here: whether it runs on this machine for this command only.
    """

    address: str
    dashboard_url: str
    started_here: bool


@contextmanager
def connect(
    address: str | None, *, with_dashboard: bool = False, meanwhile: str | None = None
) -> Iterator[ClusterInfo]:
    """Use the cluster at ``address`` (or ``$RAY_ADDRESS``), or without one a local Ray that ends with the block.

    Args:
        address: the cluster's.
        with_dashboard: whether a local Ray has one.
        meanwhile: a module that the block needs, and that takes seconds to import: as a local Ray takes to start.

    Raises:
        InputError: the address is malformed, or nothing answers at it.
        ClusterError: Ray answers but can't be used, or can't be started.
    """
    os.environ.update(SERVE_ENV)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray  # noqa: PLC0415  (after the environment that its parts read when they are imported)

    if ray.is_initialized():  # a job, a test or a notebook brought its own
        yield _info("", started_here=False)
        return
    folder: Path | None = None
    variables = contextlib.ExitStack()
    if address is None or (is_job_server(address) and inside_job()):  # a job is where its submitter wanted it
        address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            dashboard = _join(address)
        else:
            folder = Path(tempfile.mkdtemp(prefix="lf-", dir=_short_temporary_folder()))
            variables.enter_context(_default("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0"))  # nobody takes this machine
            os.environ.update(_proxy_environment(folder))
            if meanwhile is not None:
                threading.Thread(target=_import, args=(meanwhile,), name="llamafarm-import", daemon=True).start()
            dashboard = _start(folder, with_dashboard=with_dashboard)
        quiet()
        with _raylet_off_stdout(), _ended_by_sigterm():
            yield _info(dashboard, started_here=folder is not None)
    finally:
        variables.close()
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def connect_if_up(address: str) -> Iterator[str]:
    """Use the cluster at ``address`` for the time of a block if it can be reached, else say why not.

    The block goes on either way: it is given the empty text, or what stands in the way in a sentence.
    """
    with contextlib.ExitStack() as stack:
        trouble = ""
        try:
            stack.enter_context(connect(address))
        except (InputError, ClusterError) as error:
            trouble = error.message
        yield trouble


def _import(module: str) -> None:
    with contextlib.suppress(Exception):  # the block imports it too, and says what is wrong
        importlib.import_module(module)


@contextmanager
def _default(name: str, value: str) -> Iterator[None]:
    """An environment variable for the time of a block, unless somebody set it."""
    is_ours = name not in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if is_ours:
            os.environ.pop(name, None)


def is_job_server(address: str) -> bool:
    """Whether an address is that of a dashboard, which takes jobs, and not the cluster's own."""
    return address.startswith(("http://", "https://"))


def inside_job() -> bool:
    """Whether this process was started by a cluster's job server."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def quiet() -> None:
    """Keep the libraries' chatter off the terminal; their warnings and errors stay, and Ray logs all to files.

    To be called again after an import of Ray Serve LLM, which sets the loggers up anew.
    """
    logging.getLogger().setLevel(logging.WARNING)  # Ray Serve LLM sets it to INFO and prints JSON
    for name in ("ray.data", "ray.serve", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("vllm").setLevel(logging.ERROR)


@contextmanager
def _raylet_off_stdout() -> Iterator[None]:
    """Keep what raylets say to drivers ("8 PYTHON worker processes have been started") out of a command's output.

    ``log_to_driver`` does not, and it goes to stdout, where ``--json`` has its answer. It is in Ray's own logs too.
    """
    from ray._private import worker  # noqa: PLC0415

    before, worker._worker_logs_enabled = worker._worker_logs_enabled, False  # noqa: SLF001
    try:
        yield
    finally:
        worker._worker_logs_enabled = before  # noqa: SLF001


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as an exception does, so that what was started here is stopped too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _join(address: str) -> str:
    """Connect, and say where the dashboard is."""
    import ray  # noqa: PLC0415
    from ray.exceptions import RayError  # noqa: PLC0415

    if is_job_server(address):
        raise InputError(
            f"{address} is a dashboard's address, which takes jobs, and this verb is none.",
            hint="Write the cluster's own, host:port (6379 by default), on one of its machines.",
        )
    if address.startswith("ray://"):
        raise InputError(
            f"{address} is for Ray Client, which can't do this.",
            hint="Submit a job with the dashboard's address, http://HOST:8265, or be on a machine of the cluster.",
        )
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise InputError(
                f"{address!r} is no Ray address.", hint="Write host:port, such as 10.0.0.1:6379, or 'auto'."
            )
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise InputError(
                f"Nothing answers at the Ray address {address}: {error}.",
                hint="Start a cluster with `ray start --head`, or leave out --address to use this machine.",
            ) from None
        if _is_this_machine(host):
            _take_own_token()
    try:
        with _on_loopback() if _is_on_loopback_alone(address) else contextlib.nullcontext():
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise InputError(
            f"No Ray cluster is found at {address!r}: {str(error).splitlines()[0]}",
            hint="Start one with `ray start --head`, or leave out --address to use this machine.",
        ) from None
    except (RayError, RuntimeError, ValueError, TimeoutError) as error:  # RayError: such as a wrong token
        raise ClusterError(
            f"Ray at {address} can't be used: {str(error).splitlines()[0]}",
            hint="Is it running, is its version the same, and is RAY_AUTH_MODE/token set as on the cluster?",
        ) from None
    return str(context.dashboard_url or "")


def _is_this_machine(host: str) -> bool:
    """Whether a name or an address is one of this machine's own: no other has it to bind."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host.strip("[]"), 0))
    except OSError:
        return False
    return True


def _take_own_token() -> None:
    """Show a Ray of this machine this user's token, as Ray does where it looks for one itself.

    It asks for the token by default, and who gives its address has to say ``RAY_AUTH_MODE=token`` otherwise. A cluster
    on other machines is shown the token only where that is said.
    """
    from ray._private.authentication.authentication_token_setup import (  # noqa: PLC0415
        maybe_enable_token_auth_if_token_available,
    )

    close_token()
    logger = logging.getLogger("ray._private.authentication.authentication_token_setup")
    before = logger.level
    logger.setLevel(logging.ERROR)  # it says that it found the token
    try:
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    finally:
        logger.setLevel(before)


def _start(folder: Path, *, with_dashboard: bool) -> str:
    """Start a Ray that keeps everything in ``folder``, and say where its dashboard is."""
    import ray  # noqa: PLC0415

    try:
        make_token()
        with _on_loopback(), _default(_MANY_MACHINES, "0"):  # drivers of jobs there inherit it
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
    except (ConnectionError, RuntimeError, OSError, TimeoutError) as error:
        raise ClusterError(f"A local Ray could not be started: {error}.", hint="Is the disk full?") from error
    return str(context.dashboard_url or "")


def _is_on_loopback_alone(address: str) -> bool:
    """Return True if a Ray of this machine was started here (:func:`_on_loopback`), and not with `ray start`."""
    from ray._private import services  # noqa: PLC0415

    host, _, port = address.rpartition(":")
    try:
        if not ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
            return False
    except OSError:
        return False
    try:
        socket.create_connection((services.get_node_ip_address(), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        return True
    return False


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have this process know the machine by its loopback address while a Ray is started, or joined, in the block.

    Such a Ray listens on loopback alone, its metrics without a key too. Ray itself does that where it is for one
    machine, as on a Mac; on Linux its processes listen to the network, and take 127.0.0.1 for the machine's address.
    """
    from ray._private import ray_constants  # noqa: PLC0415

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _short_temporary_folder() -> str:
    """The system's folder for temporary files, or /tmp where its name would make HAProxy's socket paths too long."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _LONGEST_TEMPORARY_FOLDER else "/tmp"  # noqa: S108


def _proxy_environment(folder: Path) -> dict[str, str]:
    """Ports and files of HAProxy's own for this cluster, so that two on one machine don't meet; and its program."""
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


def _info(dashboard: str, *, started_here: bool) -> ClusterInfo:
    import ray  # noqa: PLC0415

    address = ray.get_runtime_context().gcs_address
    return ClusterInfo(address, f"http://{dashboard}" if dashboard else "", started_here)
