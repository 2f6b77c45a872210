"""Facts of a cluster's nodes, each collected on the node itself, and of its dashboard, as a stranger sees it."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import stat
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from llamafarm_ray.clusters.advisories import installed_versions
from llamafarm_ray.clusters.standing import folder_of_records
from llamafarm_ray.serving.ray_serve.token import token_file

__all__ = ["Dashboard", "Node", "dashboard_of", "nodes_of_cluster", "this_node"]

_ASK_S = 5.0
_NODE_S = 60.0
_HEAD = "node:__internal_head__"
"""Resource by which Ray marks the head."""
_STORAGE_VARIABLE = "RAY_gcs_storage"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster.

    Attributes:
        versions: of Python and of the packages that count.
        free_bytes: free and total bytes, by folder.
        shared_memory_bytes: size of /dev/shm.
        object_store_bytes: size that Ray's object store may have; 0 where Ray does not run.
        modes: permissions of files that hold tokens, by path.
        skew_s: its clock less this machine's.
        skew_error_s: largest error of that skew, from the duration of the request.
        gcs_storage: on the head, what keeps Ray's control state: ``memory``, ``redis`` or ``rocksdb``.
    """

    name: str
    versions: dict[str, str] = field(default_factory=dict)
    free_bytes: dict[str, tuple[int, int]] = field(default_factory=dict)
    shared_memory_bytes: int = 0
    object_store_bytes: int = 0
    modes: dict[str, int] = field(default_factory=dict)
    skew_s: float = 0.0
    skew_error_s: float = 0.0
    gcs_storage: str = ""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard, which takes jobs.

    Attributes:
        answers: True if it does.
        is_open: True if it shows its jobs, and so takes some, without a token.
        beyond: other address of this machine at which it answers; empty if it is on loopback alone.
    """

    url: str
    answers: bool
    is_open: bool
    beyond: str = ""


def this_node() -> Node:
    """Return the facts of the machine that this is called on."""
    folders = {str(Path(tempfile.gettempdir())), str(_existing(folder_of_records()))}
    if cache := os.environ.get("LLAMAFARM_CACHE"):
        folders.add(str(_existing(Path(cache))))
    usage = {folder: shutil.disk_usage(folder) for folder in folders}
    modes = {}
    for path in (token_file(), *folder_of_records().glob("*.json")):
        with contextlib.suppress(OSError):
            modes[str(path)] = stat.S_IMODE(path.stat().st_mode)
    shared = shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0  # noqa: PTH112, S108
    return Node(
        name=socket.gethostname(),
        versions={"python": platform.python_version(), **installed_versions()},
        free_bytes={folder: (found.free, found.total) for folder, found in usage.items()},
        shared_memory_bytes=shared,
        modes=modes,
        gcs_storage=_gcs_storage(),
    )


def nodes_of_cluster() -> list[Node]:
    """Return the facts of each living node of the connected cluster.

    Raises:
        GetTimeoutError: a node does not answer within a minute.
    """
    import ray  # after the environment that its parts read when they are imported
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    found = []
    ask = ray.remote(num_cpus=0)(_facts_and_time)
    for node in (one for one in ray.nodes() if one["Alive"]):
        there = ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        ray.get(there.remote(), timeout=_NODE_S)  # a worker starts, which takes a second
        began = time.time()
        facts, their_time = ray.get(there.remote(), timeout=_NODE_S)
        took = time.time() - began
        more: dict[str, object] = {
            "name": node["NodeManagerHostname"],
            "object_store_bytes": int(node["Resources"].get("object_store_memory", 0)),
            "skew_s": their_time - began - took / 2,
            "skew_error_s": took / 2,
            "gcs_storage": facts["gcs_storage"] if _HEAD in node["Resources"] else "",
        }
        found.append(Node(**{**facts, **more}))
    return found


def _gcs_storage() -> str:
    """Return what keeps Ray's control state, by the environment of a head's processes."""
    storage = os.environ.get(_STORAGE_VARIABLE)
    return "redis" if os.environ.get("RAY_REDIS_ADDRESS") else storage or "memory"


def _facts_and_time() -> tuple[dict[str, object], float]:
    here = this_node()
    return {name: getattr(here, name) for name in Node.__slots__}, time.time()


def dashboard_of(url: str) -> Dashboard:
    """Return the answers that a dashboard gives without its token."""
    url = url.rstrip("/")
    status = _status(f"{url}/api/jobs/")
    parts = urlsplit(url)
    host = parts.hostname or ""
    beyond = ""
    if host in {"127.0.0.1", "localhost", "::1", "0.0.0.0"}:  # noqa: S104
        with contextlib.suppress(ValueError):  # the port is no number
            port = parts.port or (443 if parts.scheme == "https" else 80)
            beyond = next((one for one in _own_addresses() if _listens(one, port)), "")
    elif status is not None:
        beyond = host
    return Dashboard(url, answers=status is not None, is_open=status == httpx.codes.OK, beyond=beyond)


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=_ASK_S, trust_env=False).status_code
    except (httpx.TransportError, httpx.InvalidURL):
        return None


def _own_addresses() -> list[str]:
    """Return this machine's addresses in networks."""
    import psutil

    addresses = [one for found in psutil.net_if_addrs().values() for one in found if one.family == socket.AF_INET]
    return [one.address for one in addresses if not one.address.startswith("127.")]


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=_ASK_S).close()
    except OSError:
        return False
    return True


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
