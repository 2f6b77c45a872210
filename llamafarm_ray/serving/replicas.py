"""The running replicas of an application, asked one by one: by swaps, by the rollouts' controller, by tests.

It needs neither vLLM nor torch, so that a command or a controller that was started anew is there at once. Of Ray's
private parts it relies on (a test names each, so that an upgrade that moves one fails there):

* ``serve.context._get_global_client``, which knows where a running Serve listens and its replicas' actors, and
  ``_disconnect``, which makes it look for Serve anew,
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
from typing import Any

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.serve._private.common import ReplicaState, RequestMetadata
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve.context import _disconnect, _get_global_client
from ray.serve.exceptions import RayServeException

from llamafarm_ray.errors import DeploymentError, LlamaFarmError
from llamafarm_ray.serving.rollouts.windows import Report

__all__ = ["ROUTER", "RayFleet", "http_address", "load_everywhere", "loaded", "num_loads"]

logger = logging.getLogger(__name__)

ROUTER = "router"
"""The deployment of an application that is no replica of a model."""
_LOAD_S = 600.0
"""A swap's first phase, pulling the adapter's files included."""
_REPLICA_GONE_S = 0.5
_REPORT_S = 2.0
"""What a replica does not hand over in this time is asked for again."""


def http_address() -> tuple[str, int] | None:
    """Where the connected cluster's Serve listens (host, port); None while it isn't running."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return (client.http_config.host, client.http_config.port) if client is not None else None


def load_everywhere(application: str, reference: str, *, timeout_s: float = _LOAD_S) -> list[str]:
    """Load a version on every running replica of an application; the engine names, one a replica.

    A replica that dies meanwhile is passed over: the one that takes its place asks the registry when it starts.

    Raises:
        DeploymentError: the application isn't running, or a replica could not load it in time.
        UserError: the version does not fit the application's base.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        replicas = _replicas(application)
        if not replicas:
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
    """How often each replica of a running application loaded each version, by engine name."""
    loads: list[dict[str, int]] = ray.get([_call(replica, "num_loads") for replica in _replicas(application)])
    return loads


def loaded(application: str) -> list[list[str]]:
    """The engine names of the versions that the engine of each replica of a running application holds now."""
    names: list[list[str]] = ray.get([_call(replica, "loaded") for replica in _replicas(application)])
    return names


class RayFleet:
    """The running replicas of an application, as the rollouts' controller asks them.

    Args:
        application: the Serve application's name.
    """

    def __init__(self, application: str) -> None:
        self._application = application

    async def reports(self, rollout: str, after: dt.datetime) -> list[Report]:
        """What each replica that answers saw of a rollout, see :class:`~.rollouts.fleet.Fleet`."""
        return await asyncio.to_thread(self._reports, rollout, after)

    def _reports(self, rollout: str, after: dt.datetime) -> list[Report]:
        try:
            replicas = _replicas(self._application)
        except (RayError, RayServeException) as error:
            _disconnect()  # the Serve of the next turn may be another
            logger.warning("Serve does not say which replicas of %s run: %s", self._application, error)
            return []
        calls = []
        for replica in replicas:
            with contextlib.suppress(ValueError):  # it died since it was listed
                calls.append(_call(replica, "rollout_report", rollout, after))
        done, late = ray.wait(calls, num_returns=len(calls), timeout=_REPORT_S) if calls else ([], [])
        reports: list[Report] = []
        for call in done:
            try:
                reports.append(ray.get(call))
            except RayError as error:
                logger.info("A replica died before it told of %s: %s", rollout, error)
        if late:
            logger.warning("%d of %d replicas do not tell of %s.", len(late), len(calls), rollout)
        return reports

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


def _replicas(application: str) -> list[str]:
    """The actor names of an application's running vLLM replicas."""
    client = _get_global_client(raise_if_no_controller_running=False)
    found = client.get_serve_details()["applications"].get(application) if client is not None else None
    deployments = found["deployments"].values() if found else ()
    return [
        replica["actor_name"]
        for deployment in deployments
        if deployment["name"] != ROUTER
        for replica in deployment["replicas"]
        if replica["state"] == ReplicaState.RUNNING
    ]


def _call(replica: str, method: str, *args: object) -> ray.ObjectRef[Any]:
    """Call a method of one replica, whichever the router would pick."""
    request = f"llamafarm-{uuid.uuid4()}"
    metadata = RequestMetadata(request_id=request, internal_request_id=request, call_method=method)
    return ray.get_actor(replica, namespace=SERVE_NAMESPACE).handle_request.remote(pickle.dumps(metadata), *args)
