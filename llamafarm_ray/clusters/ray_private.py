"""The private names of Ray that a driver relies on. No other module of ``clusters`` and ``workflows`` touches one.

A test names each, so that an upgrade of Ray that moves one fails there:

* ``authentication_token_setup``: ``Config``, ``AuthenticationTokenLoader`` and
  ``maybe_enable_token_auth_if_token_available``,
* ``worker._worker_logs_enabled``,
* ``ray_constants.ENABLE_RAY_CLUSTER``,
* ``parameter.RayParams``, its three ports of agents and ``setup_worker_path``,
* ``utils.set_omp_num_threads_if_unset``,
* ``services.get_node_ip_address``.

Ray is imported when a function is called: its parts read their environment when they are imported.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from llamafarm_ray.clusters.ports import free_ports

__all__ = [
    "named_agent_ports",
    "node_address",
    "on_loopback",
    "on_omp_threads",
    "raylet_off_stdout",
    "take_own_token",
    "token_shown",
    "workers_started_by",
]

_SETUP = "ray._private.authentication.authentication_token_setup"


@contextmanager
def token_shown(token: str) -> Iterator[None]:
    """Show Ray this token for the time of a block, also in a process that has imported Ray already."""
    from ray._private.authentication.authentication_token_setup import (
        AuthenticationTokenLoader,
        Config,
    )

    given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    before = {name: os.environ.get(name) for name in given}

    def read_again() -> None:
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()

    os.environ.update(given)
    read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        read_again()


def take_own_token() -> None:
    """Show Ray this user's token, if there is one, without a word on it."""
    from ray._private.authentication.authentication_token_setup import (
        maybe_enable_token_auth_if_token_available,
    )

    logger = logging.getLogger(_SETUP)
    before = logger.level
    logger.setLevel(logging.ERROR)  # it says that it found the token
    try:
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    finally:
        logger.setLevel(before)


@contextmanager
def raylet_off_stdout() -> Iterator[None]:
    """Keep what raylets say to drivers ("8 PYTHON worker processes have been started") out of a command's output.

    ``log_to_driver`` does not, and it goes to stdout, where ``--json`` has its answer. It is in Ray's own logs too.
    """
    from ray._private import worker

    before, worker._worker_logs_enabled = worker._worker_logs_enabled, False  # noqa: SLF001
    try:
        yield
    finally:
        worker._worker_logs_enabled = before  # noqa: SLF001


@contextmanager
def on_loopback() -> Iterator[None]:
    """Make this process use the machine's loopback address while a Ray is started, or joined, in the block.

    Such a Ray listens on loopback alone, its metrics without a key too. Ray itself does that where it is for one
    machine, as on a Mac; on Linux its processes listen to the network, and take 127.0.0.1 for the machine's address.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def named_agent_ports() -> Iterator[None]:
    """Give ports to the agents of a Ray that is started in the block.

    A raylet waits 15 seconds for an agent to report a port that it chose itself, and ends if a busy machine takes
    longer. `ray.init` has no argument for these ports.
    """
    first = free_ports(3)
    names = ("dashboard_agent_listen_port", "metrics_agent_port", "runtime_env_agent_port")
    with _parameters(**{name: first + index for index, name in enumerate(names)}):
        yield


@contextmanager
def workers_started_by(script: Path) -> Iterator[None]:
    """Make a Ray that is started in the block start each of its workers by a script of ours.

    Args:
        script: it gets the arguments of Ray's ``setup_worker.py``. `ray.init` has no argument for it.
    """
    with _parameters(setup_worker_path=str(script)):
        yield


@contextmanager
def _parameters(**given: object) -> Iterator[None]:
    from ray._private import parameter

    original = parameter.RayParams
    parameter.RayParams = partial(original, **given)
    try:
        yield
    finally:
        parameter.RayParams = original


def on_omp_threads(call: Callable[[int], object]) -> None:
    """Call ``call`` with the number of threads whenever Ray sets it in this worker.

    Ray sets ``OMP_NUM_THREADS`` before a worker's first task, which is too late where PyTorch is imported already.
    """
    from ray._private import utils

    original = utils.set_omp_num_threads_if_unset

    def set_and_tell() -> bool:
        was_set = bool(original())
        if was_set:
            call(int(os.environ["OMP_NUM_THREADS"]))
        return was_set

    utils.set_omp_num_threads_if_unset = set_and_tell


def node_address() -> str:
    """Return this machine's address in Ray."""
    from ray._private import services

    return str(services.get_node_ip_address())
