"""State of the connected cluster's Serve: its address, its applications, and which of them are ours.

It needs neither vLLM nor torch, so that a command or a controller starts at once. Of Ray's private parts it relies on
these (a test names each, so that an upgrade that moves one fails there): ``serve.context._get_global_client``, which
knows where a running Serve listens and its replicas' actors, ``_disconnect``, which makes it look for Serve anew,
``ReplicaState``, whose values its details have, and ``RAY_SERVE_ENABLE_HA_PROXY``, which it has read at its import.
"""

from __future__ import annotations

import logging
from typing import TypedDict

import ray
from ray.exceptions import RayError
from ray.serve._private.common import ReplicaState
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY
from ray.serve.context import _disconnect, _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from llamafarm_ray.errors import ClusterError, InputError
from llamafarm_ray.serving.selection.application_settings import SETTINGS_KEY, ApplicationSettings
from llamafarm_ray.serving.selection.peers import Peer

__all__ = [
    "ROUTER",
    "ApplicationDetails",
    "ReplicaDetails",
    "application_details",
    "forget_serve",
    "home_of",
    "http_address",
    "http_root",
    "is_behind_haproxy",
    "is_deployed",
    "is_scaled_to_zero",
    "is_serving",
    "reachable",
    "replica_details",
    "replica_state",
    "running_in",
    "running_replicas",
    "settings_by_route",
    "url_of",
]

logger = logging.getLogger(__name__)

ROUTER = "router"
"""The deployment of an application that is no replica of a model."""
_EVERY_INTERFACE = {"", "0.0.0.0", "::"}  # noqa: S104  (compared, not bound)


class ReplicaDetails(TypedDict):
    """Serve's details of a replica: those that are used."""

    replica_id: str
    actor_name: str
    node_ip: str | None
    state: str


class _DeploymentDetails(TypedDict):
    name: str
    target_num_replicas: int
    deployment_config: dict[str, object]
    replicas: list[ReplicaDetails]


class ApplicationDetails(TypedDict):
    """Serve's details of an application: those that are used."""

    route_prefix: str | None
    status: str
    message: str
    deployments: dict[str, _DeploymentDetails]


def is_behind_haproxy() -> bool:
    """Return True if ``RAY_SERVE_ENABLE_HA_PROXY`` was set when this process imported ``ray.serve``."""
    return bool(RAY_SERVE_ENABLE_HA_PROXY)


def http_address() -> tuple[str, int] | None:
    """Return host and port of the connected cluster's Serve; None while it isn't running."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return (client.http_config.host, client.http_config.port) if client is not None else None


def http_root() -> str | None:
    """Return the root of its URLs, such as ``http://10.0.0.1:8000``; None while Serve isn't running.

    If it listens on every interface, that is the head node's address: a proxy runs there at any rate.
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


def forget_serve() -> None:
    """Make the next call look for Serve anew: it may be another one by then."""
    _disconnect()


def is_deployed(application: str) -> bool:
    """Return True if the connected cluster's Serve has an application of this name, in any state.

    Raises:
        RayError: Serve does not say; by the next call it may be another one.
    """
    try:
        return _application(application) is not None
    except RayError:
        forget_serve()
        raise


def home_of(application: str) -> str | None:
    """The registry's home that an application serves from; None for an application of another project."""
    found = _application(application)
    settings = _settings(found) if found is not None else None
    return str(settings["home"]) if settings is not None else None


def is_serving(application: str) -> bool:
    """Return True if an application has a running replica, or starts one on request."""
    return bool(running_replicas(application)) or is_scaled_to_zero(application)


def settings_by_route() -> dict[str, ApplicationSettings]:
    """The settings of each application of ours on the connected Serve, by route prefix."""
    found = application_details().values()
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
        found = application_details()
    except (RayError, RayServeException) as error:
        forget_serve()
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


def _peer(name: str, application: ApplicationDetails, home: str) -> Peer | None:
    """An application, if requests can be sent to it and it serves from that home."""
    settings, prefix = _settings(application), application["route_prefix"]
    if settings is None or not prefix or settings["home"] != home:
        return None
    if ApplicationStatus(application["status"]) is ApplicationStatus.DELETING:
        return None
    if not (running_in(application) or _waits_to_be_asked(application)):
        return None
    return Peer.of(name, prefix, settings)


def running_replicas(application: str) -> list[str]:
    """Return the actor names of an application's running replicas of models."""
    found = _application(application)
    return running_in(found) if found else []


def application_details() -> dict[str, ApplicationDetails]:
    """Return Serve's details of each application, by name; empty while Serve isn't running."""
    client = _get_global_client(raise_if_no_controller_running=False)
    found: dict[str, ApplicationDetails] = client.get_serve_details()["applications"] if client is not None else {}
    return found


def _application(name: str) -> ApplicationDetails | None:
    return application_details().get(name)


def _settings(application: ApplicationDetails) -> ApplicationSettings | None:
    """Return our settings from an application's ``user_config``; None for an application that is not ours."""
    for deployment in application["deployments"].values():
        config = deployment["deployment_config"].get("user_config")
        if isinstance(config, dict) and SETTINGS_KEY in config:
            ours: ApplicationSettings = config[SETTINGS_KEY]
            return ours
    return None


def running_in(application: ApplicationDetails) -> list[str]:
    """Return the actor names of running replicas, from Serve's details of an application."""
    return [
        replica["actor_name"] for replica in replica_details(application) if replica["state"] == ReplicaState.RUNNING
    ]


def replica_details(application: ApplicationDetails) -> list[ReplicaDetails]:
    """Return Serve's details of each replica of a model, in any state."""
    deployments = application["deployments"].values()
    return [replica for one in deployments if one["name"] != ROUTER for replica in one["replicas"]]


def replica_state(replica: ReplicaDetails) -> str:
    """Return the state, such as ``RUNNING``, from Serve's details of a replica."""
    return str(ReplicaState(replica["state"]).value)


def is_scaled_to_zero(application: str) -> bool:
    """Return True if an application has no replicas until requests come."""
    found = _application(application)
    return found is not None and _waits_to_be_asked(found)


def _waits_to_be_asked(application: ApplicationDetails) -> bool:
    deployments = application["deployments"].values()
    return all(one["target_num_replicas"] == 0 for one in deployments if one["name"] != ROUTER)
