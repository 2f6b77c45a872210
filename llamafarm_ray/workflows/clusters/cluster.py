"""Ray for the time of a command: a cluster, the Ray of `llamafarm up`, or one that is started and ended with it."""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.clusters.fork_server import BUILDS, MODULES
from llamafarm_ray.clusters.local_ray import default, local_ray, prepare_environment
from llamafarm_ray.clusters.ray_private import (
    node_address,
    on_loopback,
    raylet_off_stdout,
    take_own_token,
    token_shown,
)
from llamafarm_ray.clusters.shadows import refuse_shadows
from llamafarm_ray.clusters.standing import StandingRay, find
from llamafarm_ray.errors import ClusterError, InputError
from llamafarm_ray.serving.ray_serve.token import close_token

__all__ = [
    "LOCAL",
    "ClusterInfo",
    "connect",
    "connect_if_up",
    "ended_by_signals",
    "inside_job",
    "is_job_server",
    "names_cluster",
    "quiet",
    "starts_own_ray",
]

LOCAL = "local"
"""The address that asks for a Ray of the command's own."""
_CONNECT_TIMEOUT_S = 15


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """The cluster in use.

    Attributes:
        address: its control address, ``host:port``; what ``--address`` takes.
        dashboard_url: URL of its dashboard; empty if it has none.
        started_here: True if it runs on this machine for this command only.
        is_local: True if it has no other machine: it was started for this command, or by ``llamafarm up``.
    """

    address: str
    dashboard_url: str
    started_here: bool
    is_local: bool = False


@contextmanager
def connect(
    address: str | None,
    *,
    with_dashboard: bool = False,
    meanwhile: str | None = None,
    on_start: Callable[[str], None] | None = None,
    allow_open: bool = False,
) -> Iterator[ClusterInfo]:
    """Use the cluster at ``address`` (or ``$RAY_ADDRESS``) for the time of a block.

    Without an address it is the Ray that ``llamafarm up`` started on this machine. If there is none either, or the
    address is ``local``, one is started, which ends with the block and with all of its processes.

    Args:
        with_dashboard: give a Ray that is started here a dashboard.
        meanwhile: a module that the block needs, and that takes seconds to import: as long as Ray takes to start or
            to be joined.
        on_start: called with a sentence before something is done that takes seconds.
        allow_open: use a cluster, too, whose dashboard takes jobs of strangers.

    Raises:
        InputError: the address is malformed, nothing answers at it, or the working directory hides a library.
        AccessDeniedError: the cluster's dashboard takes jobs of strangers.
        ClusterError: Ray answers but can't be used, or can't be started.
    """
    prepare_environment()
    import ray  # after the environment that its parts read when they are imported

    if ray.is_initialized():  # a job, a test or a notebook brought its own
        yield _info("", started_here=False)
        return
    if not inside_job():
        refuse_shadows(Path.cwd())
    address = _address(address)
    standing = find()
    if standing is not None and address not in {None, standing.address}:
        standing = None
    if on_start is not None:
        on_start(_what_starts(address, standing))
    with contextlib.ExitStack() as stack:
        if standing is not None or address in {None, LOCAL}:
            stack.enter_context(default("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0"))  # nobody takes this machine
        if meanwhile is not None:
            threading.Thread(target=_import, args=(meanwhile,), name="llamafarm-import", daemon=True).start()
        dashboard = stack.enter_context(_joined_standing(standing)) if standing is not None else None
        is_own = dashboard is None and address in {None, LOCAL}
        if is_own:
            _, dashboard = stack.enter_context(
                local_ray(with_dashboard=with_dashboard, forks_with=BUILDS if meanwhile is None else MODULES)
            )
        elif dashboard is None:
            stack.callback(ray.shutdown)
            dashboard = _join(str(address))
            if dashboard and not allow_open and not inside_job():
                _refuse_open(dashboard)
        quiet()
        with raylet_off_stdout(), ended_by_signals():
            yield _info(dashboard or "", started_here=is_own, is_local=is_own or standing is not None)


def _refuse_open(dashboard: str) -> None:
    from llamafarm_ray.clusters.check import refuse_open_dashboard  # a command's own Ray is on loopback alone

    refuse_open_dashboard(f"http://{dashboard}")


def starts_own_ray(address: str | None) -> bool:
    """Return True if :func:`connect` would start a Ray for this command alone."""
    given = _address(address)
    return given == LOCAL or (given is None and find() is None)


def names_cluster(address: str | None) -> bool:
    """Return True if ``address``, or the environment, names a cluster that a command shall use."""
    return _address(address) not in {None, LOCAL}


def _address(given: str | None) -> str | None:
    if given is None or (is_job_server(given) and inside_job()):  # a job is where its submitter wanted it
        return os.environ.get("RAY_ADDRESS") or None
    return given


def _what_starts(address: str | None, standing: StandingRay | None) -> str:
    if standing is not None:
        return f"Using the Ray at {standing.address} (llamafarm up)"
    return "Starting Ray on this machine" if address in {None, LOCAL} else f"Connecting to Ray at {address}"


@contextmanager
def _joined_standing(standing: StandingRay) -> Iterator[str | None]:
    """Connect to a Ray that stays, and give its dashboard's address; None if it ends just now."""
    import ray

    from llamafarm_ray.clusters.environment import runtime_environment

    with contextlib.ExitStack() as stack:
        stack.enter_context(token_shown(standing.token))
        stack.callback(ray.shutdown)
        try:
            dashboard = _join(standing.address, runtime_env=runtime_environment(Path(standing.folder)))
        except (InputError, ClusterError, OSError) as error:
            if find() is not None:
                raise ClusterError(
                    f"The Ray that `llamafarm up` started can't be used: {error}",
                    hint="Start it anew: llamafarm down, then llamafarm up.",
                ) from error
            dashboard = None
        yield dashboard


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


def is_job_server(address: str) -> bool:
    """Return True if an address is a dashboard's, which takes jobs, instead of the cluster's own."""
    return address.startswith(("http://", "https://"))


def inside_job() -> bool:
    """Return True if a cluster's job server started this process."""
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
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a terminal that closes, end the block as an exception does, so that it cleans up.

    A SIGHUP that is ignored, as under ``nohup``, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else [])]

    def end(caught: int, _frame: object) -> None:
        if caught == signal.SIGHUP:  # a shell sends it, and then the kernel: the second one must not end the clean-up
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        sys.exit(128 + caught)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _join(address: str, *, runtime_env: Mapping[str, object] | None = None) -> str:
    """Connect, and return the dashboard's address."""
    import ray
    from ray.exceptions import RayError

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
        with on_loopback() if _is_on_loopback_alone(address) else contextlib.nullcontext():
            context = ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime_env
            )
    except ConnectionError as error:
        raise InputError(
            f"No Ray cluster is found at {address!r}: {str(error).splitlines()[0]}",
            hint="Start one with `ray start --head`, or leave out --address to use this machine."
            if address == "auto"  # otherwise something answers there
            else "A Ray of another user or HOME takes its own token only: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN "
            "to what is in that one's ~/.ray/auth_token. If it is no Ray, start one with `ray start --head`.",
        ) from None
    except (RayError, RuntimeError, ValueError, TimeoutError) as error:  # RayError: such as a wrong token
        raise ClusterError(
            f"Ray at {address} can't be used: {str(error).splitlines()[0]}",
            hint="Is it running, is its version the same, and is RAY_AUTH_MODE/token set as on the cluster?",
        ) from None
    return str(context.dashboard_url or "")


def _is_this_machine(host: str) -> bool:
    """Return True if a name or an address belongs to this machine: only then can it be bound."""
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
    close_token()
    take_own_token()


def _is_on_loopback_alone(address: str) -> bool:
    """Return True if a Ray of this machine was started by :mod:`llamafarm_ray.clusters.local_ray`, not `ray start`."""
    host, _, port = address.rpartition(":")
    try:
        if not ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
            return False
    except OSError:
        return False
    try:
        socket.create_connection((node_address(), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        return True
    return False


def _info(dashboard: str, *, started_here: bool, is_local: bool = False) -> ClusterInfo:
    import ray

    address = ray.get_runtime_context().gcs_address
    return ClusterInfo(address, f"http://{dashboard}" if dashboard else "", started_here, is_local)
