"""The running replicas of an application, asked one by one: by swaps, by the rollouts' controller, by tests.

It needs neither vLLM nor torch, so that a command or a controller that was started anew is there at once. Of Ray's
private parts it relies on (a test names each, so that an upgrade that moves one fails there):

* ``serve.context._get_global_client``, which knows where a running Serve listens and its replicas' actors, and
  ``_disconnect``, which makes it look for Serve anew,
* ``GlobalState.actor_table``, which says which actors are placed on a node,
* ``handle_request`` of those actors, which takes a pickled ``RequestMetadata``. (Ray's own ``broadcast`` builds its
  router on the calling thread when that thread looks too early, and fails there for want of an event loop.)
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import pickle
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray._private.state import state as cluster_state
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.serve._private.common import ReplicaID, ReplicaState, RequestMetadata
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY, SERVE_NAMESPACE
from ray.serve.context import _disconnect, _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from llamafarm_ray.errors import ClusterError, DeploymentError, InputError, LlamaFarmError
from llamafarm_ray.serving.selection.peers import Peer
from llamafarm_ray.serving.telemetry.request_statistics import Activity
from llamafarm_ray.serving.telemetry.rollout_windows import Report

__all__ = [
    "ROUTER",
    "RayFleet",
    "RunningApplication",
    "RunningReplica",
    "applications",
    "home_of",
    "http_address",
    "http_root",
    "is_behind_haproxy",
    "is_deployed",
    "is_serving",
    "load_everywhere",
    "loaded",
    "num_loads",
    "reachable",
    "replica_placements",
    "settings_by_route",
    "url_of",
]

logger = logging.getLogger(__name__)

ROUTER = "router"
"""The deployment of an application that is no replica of a model."""
_EVERY_INTERFACE = {"", "0.0.0.0", "::"}  # noqa: S104  (compared, not bound)
_LOAD_S = 600.0
"""A swap's first phase, pulling the adapter's files included."""
_REPLICA_GONE_S = 0.5
_REPORT_S = 2.0
"""Timeout in seconds of a replica's report; a late one is asked again."""


def is_behind_haproxy() -> bool:
    """Return True if ``RAY_SERVE_ENABLE_HA_PROXY`` was set when this process imported ``ray.serve``."""
    return bool(RAY_SERVE_ENABLE_HA_PROXY)


def http_address() -> tuple[str, int] | None:
    """Return host and port of the connected cluster's Serve; None while it isn't running."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return (client.http_config.host, client.http_config.port) if client is not None else None


def http_root() -> str | None:
    """Return the root of its URLs, such as ``http://10.0.0.1:8000``; None while Serve isn't running.

    Where it listens on every interface that is the head node's address: a proxy runs there at any rate.
    """
    found = http_address()
    if found is None:
        return None
    host, port = found
    if host in _EVERY_INTERFACE:
        host = ray.get_runtime_context().gcs_address.rpartition(":")[0]
    return f"http://{host}:{port}"


def url_of(application: str) -> str | None:
    """The OpenAI-compatible root of an application; None where it has no routes, or is no more."""
    root, found = http_root(), _application(application)
    if root is None or found is None or found["route_prefix"] is None:
        return None
    if ApplicationStatus(found["status"]) is ApplicationStatus.DELETING:
        return None
    return f"{root}{found['route_prefix'].rstrip('/')}/v1"


def is_deployed(application: str) -> bool:
    """Return True if the connected cluster's Serve has an application of this name, in any state.

    Raises:
        RayError: Serve does not say; by the next call it may be another one.
    """
    try:
        return _application(application) is not None
    except RayError:
        _disconnect()
        raise


def home_of(application: str) -> str | None:
    """The registry's home that an application serves from; None where it is no application of ours."""
    found = _application(application)
    settings = _settings(found) if found is not None else None
    return str(settings["home"]) if settings is not None else None


def is_serving(application: str) -> bool:
    """Return True if an application has a running replica, or starts one on request."""
    return bool(_replicas(application)) or _is_scaled_to_zero(application)


def settings_by_route() -> dict[str, dict[str, Any]]:
    """The settings of each application of ours on the connected Serve (``Served.cold_start``), by route prefix."""
    client = _get_global_client(raise_if_no_controller_running=False)
    found = client.get_serve_details()["applications"].values() if client is not None else ()
    settings = {application["route_prefix"]: _settings(application) for application in found}
    return {route: ours for route, ours in settings.items() if route and ours is not None}


def reachable(home: str) -> list[Peer]:
    """The applications of ours on the connected Serve that requests can be sent to, and that serve from a home.

    Left out is one that has no route, is being deleted, or has no replica without being scaled to zero; and one whose
    settings are not those of this release, so that it keeps the others from nothing.

    Args:
        home: as ``Location.uri`` writes it.

    Raises:
        ClusterError: Serve does not say.
    """
    try:
        client = _get_global_client(raise_if_no_controller_running=False)
        found: dict[str, Any] = client.get_serve_details()["applications"] if client is not None else {}
    except (RayError, RayServeException) as error:
        _disconnect()
        raise ClusterError(f"Serve does not say which applications it has: {error}.") from error
    peers = []
    for name, application in sorted(found.items()):
        try:
            one = _peer(name, application, home)
        except (KeyError, TypeError, AttributeError, ValueError, InputError) as error:  # another release's
            logger.debug("The settings of %s can't be read: %r", name, error)
            continue
        if one is not None:
            peers.append(one)
    return peers


def _peer(name: str, application: dict[str, Any], home: str) -> Peer | None:
    """An application, if requests can be sent to it and it serves from that home."""
    settings, prefix = _settings(application), application["route_prefix"]
    if settings is None or not prefix or settings["home"] != home:
        return None
    if ApplicationStatus(application["status"]) is ApplicationStatus.DELETING:
        return None
    if not (_running(application) or _waits_to_be_asked(application)):
        return None
    return Peer.of(name, prefix, settings)


def replica_placements() -> tuple[set[str], set[str]]:
    """The replicas that no node has a place for, by actor name, and the deployments (``application#name``) with places.

    A replica that is placed may be starting, or finishing what is under way before it goes.
    """
    pending, placed = set(), set()
    for actor_state in ("PENDING_CREATION", "ALIVE"):
        for actor in cluster_state.actor_table(None, None, actor_state).values():
            name = actor["Name"]
            if not ReplicaID.is_full_id_str(name):
                continue
            if actor_state == "PENDING_CREATION" and not actor["Address"]["Port"]:
                pending.add(name)
            else:
                deployment = ReplicaID.from_full_id_str(name).deployment_id
                placed.add(f"{deployment.app_name}#{deployment.name}")
    return pending, placed


def load_everywhere(application: str, reference: str, *, timeout_s: float = _LOAD_S) -> list[str]:
    """Load a version on every running replica of an application; the engine names, one a replica.

    A replica that dies meanwhile is passed over: the one that takes its place asks the registry when it starts. So does
    the first one of an application that is scaled to zero: there are no names, and that is fine.

    Raises:
        DeploymentError: the application isn't running, or a replica could not load it in time.
        UserError: the version does not fit the application's base.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        replicas = _replicas(application)
        if not replicas:
            if _is_scaled_to_zero(application):
                return []
            break
        try:
            calls = [_call(replica, "load", reference) for replica in replicas]
            loaded: list[str] = ray.get(calls, timeout=deadline - time.monotonic())
        except RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, LlamaFarmError) else DeploymentError(str(cause)) from None
        except (RayActorError, ValueError):  # ValueError: the actor's name is gone already
            time.sleep(_REPLICA_GONE_S)
            continue
        except GetTimeoutError:
            break
        return loaded
    state = serve.status().applications.get(application)
    raise DeploymentError(
        f"{reference} could not be loaded: the application {application!r} is "
        f"{state.status.value if state else 'not running'}, with no replica that answers.",
        hint="`serve status` says more.",
    )


def num_loads(application: str) -> list[dict[str, int]]:
    """Return each replica's number of loads by engine name."""
    loads: list[dict[str, int]] = ray.get([_call(replica, "num_loads") for replica in _replicas(application)])
    return loads


def loaded(application: str) -> list[list[str]]:
    """The engine names of the versions that the engine of each replica of a running application holds now."""
    names: list[list[str]] = ray.get([_call(replica, "loaded") for replica in _replicas(application)])
    return names


@dataclass(frozen=True, slots=True)
class RunningReplica:
    """A replica of a deployment.

    Attributes:
        id: Serve's.
        node: the address of the machine that it runs on; empty while it has none.
        state: Serve's, such as ``RUNNING`` or ``STARTING``.
        activity: what it tells of itself; ``None`` where it does not run, answers late, or is another's.
    """

    id: str
    node: str
    state: str
    activity: Activity | None = None


@dataclass(frozen=True, slots=True)
class RunningApplication:
    """An application of Serve.

    Attributes:
        name: its name.
        route_prefix: where its routes begin.
        status: Serve's, such as ``RUNNING`` or ``DEPLOYING``.
        message: what is wrong with it.
        replicas: of its models.
    """

    name: str
    route_prefix: str
    status: str
    message: str
    replicas: tuple[RunningReplica, ...]


def applications() -> list[RunningApplication]:
    """The applications of the connected cluster's Serve, by name, and what their replicas tell of themselves."""
    client = _get_global_client(raise_if_no_controller_running=False)
    found: dict[str, Any] = client.get_serve_details()["applications"] if client is not None else {}
    told = _ask_each([one for details in found.values() for one in _running(details)], "activity")
    return [
        RunningApplication(
            name,
            details["route_prefix"] or "",
            ApplicationStatus(details["status"]).value,
            details["message"],
            tuple(
                RunningReplica(
                    replica["replica_id"],
                    replica["node_ip"] or "",
                    ReplicaState(replica["state"]).value,
                    told.get(replica["actor_name"]),
                )
                for replica in _details(details)
            ),
        )
        for name, details in sorted(found.items())
    ]


class RayFleet:
    """The running replicas of an application, as the rollouts' controller asks them.

    Args:
        application: the Serve application's name.
    """

    def __init__(self, application: str) -> None:
        self._application = application

    async def reports(self, rollout: str, after: dt.datetime) -> list[Report]:
        """Return the reports of the replicas that answer, see :class:`~llamafarm_ray.serving.rollouts.fleet.Fleet`."""
        return await asyncio.to_thread(self._reports, rollout, after)

    def _reports(self, rollout: str, after: dt.datetime) -> list[Report]:
        told = _ask_each(self._listed(), "rollout_report", rollout, after)
        if None in told.values():
            late = sum(one is None for one in told.values())
            logger.warning("%d of %d replicas do not tell of %s.", late, len(told), rollout)
        return [report for report in told.values() if report is not None]

    async def activities(self) -> list[Activity]:
        """Return loaded versions and recent requests of the replicas that answer."""
        told = await asyncio.to_thread(lambda: _ask_each(self._listed(), "activity"))
        return [activity for activity in told.values() if activity is not None]

    def _listed(self) -> list[str]:
        try:
            return _replicas(self._application)
        except (RayError, RayServeException) as error:
            _disconnect()  # the Serve of the next turn may be another
            logger.warning("Serve does not say which replicas of %s run: %s", self._application, error)
            return []

    async def load(self, reference: str) -> None:
        """Load a version on every replica, see :func:`load_everywhere`.

        Raises:
            DeploymentError: nothing runs that could load it.
            LlamaFarmError: it can't be loaded.
        """
        try:
            await asyncio.to_thread(load_everywhere, self._application, reference)
        except (RayError, RayServeException) as error:
            _disconnect()
            raise DeploymentError(f"{reference} could not be loaded: {error}") from error


def _ask_each(replicas: Iterable[str], method: str, *args: object) -> dict[str, Any]:
    """Return the replicas' answers to a call, by actor name; None for a replica that is late or died."""
    calls = {}
    told: dict[str, Any] = dict.fromkeys(replicas)
    for replica in told:
        with contextlib.suppress(ValueError):  # it died since it was listed
            calls[_call(replica, method, *args)] = replica
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_REPORT_S) if calls else ([], [])
    for call in done:
        try:
            told[calls[call]] = ray.get(call)
        except RayError as error:  # it died, or is another application's and knows no such call
            logger.info("A replica does not answer %s: %s", method, error)
    return told


def _replicas(application: str) -> list[str]:
    """The actor names of an application's running replicas of models."""
    found = _application(application)
    return _running(found) if found else []


def _application(name: str) -> dict[str, Any] | None:
    """Return Serve's details of an application, or None."""
    client = _get_global_client(raise_if_no_controller_running=False)
    found: dict[str, dict[str, Any]] = client.get_serve_details()["applications"] if client is not None else {}
    return found.get(name)


def _settings(application: dict[str, Any]) -> dict[str, Any] | None:
    """Return our settings from an application's ``user_config``; None for an application of somebody else."""
    for deployment in application["deployments"].values():
        config = deployment["deployment_config"].get("user_config")
        if isinstance(config, dict) and "llamafarm" in config:
            ours: dict[str, Any] = config["llamafarm"]
            return ours
    return None


def _running(application: dict[str, Any]) -> list[str]:
    return [replica["actor_name"] for replica in _details(application) if replica["state"] == ReplicaState.RUNNING]


def _details(application: dict[str, Any]) -> list[dict[str, Any]]:
    """Return Serve's details of each replica of a model, in any state."""
    deployments = application["deployments"].values()
    return [replica for one in deployments if one["name"] != ROUTER for replica in one["replicas"]]


def _is_scaled_to_zero(application: str) -> bool:
    found = _application(application)
    return found is not None and _waits_to_be_asked(found)


def _waits_to_be_asked(application: dict[str, Any]) -> bool:
    deployments = application["deployments"].values()
    return all(one["target_num_replicas"] == 0 for one in deployments if one["name"] != ROUTER)


def _call(replica: str, method: str, *args: object) -> ray.ObjectRef[Any]:
    """Call a method of one replica, whichever the router would pick."""
    request = f"llamafarm-{uuid.uuid4()}"
    metadata = RequestMetadata(request_id=request, internal_request_id=request, call_method=method)
    return ray.get_actor(replica, namespace=SERVE_NAMESPACE).handle_request.remote(pickle.dumps(metadata), *args)
