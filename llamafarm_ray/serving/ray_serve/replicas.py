"""Calls to the running replicas of an application, one by one: by swaps, the rollouts' controller and tests.

Of Ray's private parts it relies on (a test names each, so that an upgrade that moves one fails there):

* ``ReplicaID`` and ``SERVE_NAMESPACE``, which make up the names of replicas' actors,
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
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.serve._private.common import ReplicaID, RequestMetadata
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from llamafarm_ray.errors import DeploymentError, LlamaFarmError
from llamafarm_ray.serving.ray_serve.cluster_state import actors
from llamafarm_ray.serving.ray_serve.state import (
    application_details,
    forget_serve,
    is_scaled_to_zero,
    replica_details,
    replica_state,
    running_in,
    running_replicas,
)
from llamafarm_ray.serving.telemetry.request_statistics import Activity
from llamafarm_ray.serving.telemetry.rollout_windows import Report

__all__ = [
    "RayFleet",
    "RunningApplication",
    "RunningReplica",
    "applications",
    "load_everywhere",
    "loaded",
    "num_loads",
    "replica_placements",
]

logger = logging.getLogger(__name__)

_LOAD_S = 600.0
"""A swap's first phase, pulling the adapter's files included."""
_REPLICA_GONE_S = 0.5
_REPORT_S = 2.0
"""Timeout in seconds of a replica's report; a late one is asked again."""


def replica_placements() -> tuple[set[str], set[str]]:
    """The replicas that no node has a place for, by actor name, and the deployments (``application#name``) with places.

    A replica that is placed may be starting, or finishing what is under way before it goes.
    """
    pending, placed = set(), set()
    for actor_state in ("PENDING_CREATION", "ALIVE"):
        for actor in actors(actor_state):
            name = actor["Name"]
            if not ReplicaID.is_full_id_str(name):
                continue
            if actor_state == "PENDING_CREATION" and not actor["Address"]["Port"]:
                pending.add(name)
            else:
                deployment = ReplicaID.from_full_id_str(name).deployment_id
                placed.add(f"{deployment.app_name}#{deployment.name}")
    return pending, placed


def load_everywhere(application: str, reference: str) -> list[str]:
    """Load a version on every running replica of an application; the engine names, one a replica.

    A replica that dies meanwhile is passed over: the one that takes its place asks the registry when it starts. So does
    the first one of an application that is scaled to zero: there are no names, and that is fine.

    Raises:
        DeploymentError: the application isn't running, or a replica could not load it in time.
        UserError: the version does not fit the application's base.
    """
    deadline = time.monotonic() + _LOAD_S
    while time.monotonic() < deadline:
        replicas = running_replicas(application)
        if not replicas:
            if is_scaled_to_zero(application):
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
    loads: list[dict[str, int]] = ray.get([_call(replica, "num_loads") for replica in running_replicas(application)])
    return loads


def loaded(application: str) -> list[list[str]]:
    """The engine names of the versions that the engine of each replica of a running application holds now."""
    names: list[list[str]] = ray.get([_call(replica, "loaded") for replica in running_replicas(application)])
    return names


@dataclass(frozen=True, slots=True)
class RunningReplica:
    """A replica of a deployment.

    Attributes:
        node: the address of the machine that it runs on; empty while it has none.
        state: Serve's, such as ``RUNNING`` or ``STARTING``.
        activity: its statistics; ``None`` where it does not run, answers late, or is another's.
    """

    id: str
    node: str
    state: str
    activity: Activity | None = None


@dataclass(frozen=True, slots=True)
class RunningApplication:
    """An application of Serve.

    Attributes:
        route_prefix: start of its routes.
        status: Serve's, such as ``RUNNING`` or ``DEPLOYING``.
        message: its problem, in Serve's words.
    """

    name: str
    route_prefix: str
    status: str
    message: str
    replicas: tuple[RunningReplica, ...]


def applications() -> list[RunningApplication]:
    """The applications of the connected cluster's Serve, by name, and what their replicas tell of themselves."""
    found = application_details()
    told = _ask_each([one for details in found.values() for one in running_in(details)], "activity")
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
                    replica_state(replica),
                    told.get(replica["actor_name"]),
                )
                for replica in replica_details(details)
            ),
        )
        for name, details in sorted(found.items())
    ]


class RayFleet:
    """The running replicas of an application, as the rollouts' controller asks them."""

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
            return running_replicas(self._application)
        except (RayError, RayServeException) as error:
            forget_serve()  # the Serve of the next turn may be another
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
            forget_serve()
            raise DeploymentError(f"{reference} could not be loaded: {error}") from error


def _ask_each(replicas: Iterable[str], method: str, *args: object) -> dict[str, Any]:
    """Return the replicas' answers to a call, by actor name; None for a replica that is late or died."""
    calls = {}
    told: dict[str, object] = dict.fromkeys(replicas)
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


def _call(replica: str, method: str, *args: object) -> ray.ObjectRef[object]:
    """Call a method of one replica, whichever the router would pick."""
    request = f"llamafarm-{uuid.uuid4()}"
    metadata = RequestMetadata(request_id=request, internal_request_id=request, call_method=method)
    return ray.get_actor(replica, namespace=SERVE_NAMESPACE).handle_request.remote(pickle.dumps(metadata), *args)
