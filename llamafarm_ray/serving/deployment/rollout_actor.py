"""The rollouts' controller in a cluster: an actor that calls :meth:`RolloutController.turn` every second.

It is detached and restarts by itself: it holds nothing that the registry and the replicas don't, so it may be killed at
any moment. There is one for each application; deploying starts it, and so does a replica where it is missing. It ends
when Serve has had no such application for a minute, and takes that off the registry's record.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import logging
import os
import time
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from llamafarm_ray.errors import ClusterError, LlamaFarmError
from llamafarm_ray.registry.remote.actor import BY_ITSELF, NAMESPACE
from llamafarm_ray.registry.remote.client import connect
from llamafarm_ray.registry.state import VersionRecord
from llamafarm_ray.serving.deployment.reconciler import withdraw
from llamafarm_ray.serving.gateway.shared_limits import Ledger, Told
from llamafarm_ray.serving.rollouts.controller import RolloutController
from llamafarm_ray.serving.rollouts.fleet import FleetObservations
from llamafarm_ray.serving.rollouts.ratings import StoredRatings
from llamafarm_ray.serving.routing.resolution import is_served
from llamafarm_ray.serving.selection.latencies import Kept
from llamafarm_ray.serving.selection.peers import Figures, Known, Peer, PeerDiscovery
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from llamafarm_ray.serving.ray_serve.replicas import RayFleet

__all__ = ["controller_actor", "start_controller", "stop_controller"]

logger = logging.getLogger("ray.serve.llamafarm")

_TURN_S = 1.0
_LOOK_S = 1.0
"""Greatest age in seconds of the replicas' reports, if all replicas answer."""
_STALE_S = 30.0
"""Greatest age in seconds of reports that are used at once, since one late replica would make all others wait."""
_SEEK_S = 5.0
_GONE_S = 60.0
"""Seconds without an application in Serve until it counts as gone; a replaced one may be away for a moment."""
_NAME_IN_USE_S = 10.0
_POLL_S = 0.1


@ray.remote(num_cpus=0, max_restarts=-1)
class ControllerActor:
    """Advances the rollouts of one application while it is deployed.

    Args:
        application: the Serve application whose replicas are asked.
        base_digest: of the base model that it serves; rollouts of other models are left alone.
        token: proves to the registry that rollouts may be changed; by default ``$LLAMAFARM_TOKEN``.
    """

    async def __init__(self, home: str, application: str, base_digest: Digest, token: str | None) -> None:  # type: ignore[misc]
        self._home = home
        self._application = application
        self._base_digest = base_digest
        self._token = token
        self._last = Figures()
        self._figures = Kept(self._look, _LOOK_S)
        self._discovery = PeerDiscovery(self._find, self._ask)
        self._ledger = Ledger()
        self._sought = time.monotonic()
        self._missing_since: float | None = None
        self._rollouts: RolloutController | None = None
        self._task = asyncio.create_task(self._run())

    async def pid(self) -> int:
        """The process it runs in."""
        return os.getpid()

    async def base_digest(self) -> Digest:
        """The base model whose rollouts it takes further."""
        return self._base_digest

    async def figures(self) -> Figures:
        """Return the merged figures of all replicas; other applications' controllers call this."""
        return await self._figures.get()

    async def known(self) -> Known:
        """Likewise, and the other applications; asked by replicas, so that each needn't ask all others.

        They don't wait for long, so they are told what is known until a new look has ended.
        """
        return Known(await self._figures.get_soon(_STALE_S), self._discovery.known)

    async def exchange(self, replica: str, told: Told) -> Told:
        """Exchange tokens and requests taken by keys, since limits hold over all replicas."""
        return self._ledger.exchange(replica, told)

    async def progress(self) -> dict[str, dict[str, object]]:
        """Return each running rollout's ``RolloutProgress`` as plain values, by the rollout's id."""
        found = self._rollouts.progress() if self._rollouts is not None else {}
        return {rollout: progress.model_dump(mode="json") for rollout, progress in found.items()}

    async def _look(self) -> Figures:
        self._last = Figures.of(await self._fleet().activities(), self._last)
        return self._last

    def _find(self) -> list[Peer]:
        from llamafarm_ray.serving.ray_serve.state import reachable  # as below

        return [one for one in reachable(self._home) if one.application != self._application]

    async def _ask(self, application: str) -> Figures:
        controller = await asyncio.to_thread(controller_actor, self._home, application)
        told: Figures = await controller.figures.remote()
        return told

    async def _run(self) -> None:
        while not await self._is_over():
            self._discovery.look()
            try:
                if self._rollouts is None:
                    self._rollouts = await asyncio.to_thread(self._controller)
                await self._rollouts.turn(dt.datetime.now(dt.UTC))
            except ClusterError as error:
                logger.warning("The rollouts at %s wait for the registry: %s", self._home, error)
                self._rollouts = None  # its actor may be another by now
            except LlamaFarmError as error:
                logger.warning("The rollouts at %s could not be taken further: %s", self._home, error)
            except Exception:  # a process's loop: there is nobody to tell but the log
                logger.exception("The rollouts at %s could not be taken further.", self._home)
                self._rollouts = None
            await asyncio.sleep(_TURN_S)
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    async def _is_over(self) -> bool:
        """Return True if Serve has been without the application for a while, and it is off the record."""
        now = time.monotonic()
        if now - self._sought < _SEEK_S:
            return False
        self._sought = now
        try:
            if await self._is_deployed():
                self._missing_since = None
                return False
            self._missing_since = self._missing_since or now
            if now - self._missing_since < _GONE_S:
                return False
            await asyncio.to_thread(self._withdraw)
            return not await self._is_deployed()  # if it came back meanwhile, its replicas record it again
        except (LlamaFarmError, RayError) as error:
            logger.info("The state of %s could not be read: %s", self._application, error)
        except Exception:  # a process's loop, as below
            logger.exception("The state of %s could not be read.", self._application)
        self._missing_since = None  # what can't be asked is not gone
        return False

    async def _is_deployed(self) -> bool:
        from llamafarm_ray.serving.ray_serve.state import is_deployed  # as below

        return await asyncio.to_thread(is_deployed, self._application)

    def _withdraw(self) -> None:
        address = ray.get_runtime_context().gcs_address
        withdraw(connect(self._home, token=self._token), self._application, address)

    def _controller(self) -> RolloutController:
        fleet = self._fleet()
        observations = FleetObservations(fleet, StoredRatings(Location(self._home)))
        registry = connect(self._home, token=self._token)

        def serves(candidate: VersionRecord) -> bool:
            return is_served(candidate, registry.state, self._base_digest)

        return RolloutController(registry, observations, load=fleet.load, serves=serves)

    def _fleet(self) -> RayFleet:
        from llamafarm_ray.serving.ray_serve.replicas import RayFleet  # Serve reads the environment when it is imported

        return RayFleet(self._application)


def controller_actor(home: str, application: str) -> ActorHandle:
    """The handle of an application's controller.

    Raises:
        ValueError: there is none.
    """
    return ray.get_actor(_name(home, application), namespace=NAMESPACE)


def start_controller(
    home: str, application: str, base_digest: Digest, *, token: str | None = None, replace: bool = False
) -> ActorHandle:
    """Start an application's controller, detached, if it isn't running or is another base model's; its handle.

    Args:
        token: the controller's token for the registry; by default its own environment's.
        replace: end the one that runs, so that this code and this token count.

    Raises:
        ClusterError: the one that runs does not end.
    """
    deadline = time.monotonic() + _NAME_IN_USE_S
    while time.monotonic() < deadline:
        try:
            running = _start(home, application, base_digest, token, get_if_exists=not replace)
        except ValueError:  # the name is taken until the one that has it has ended
            running = None
        if running is not None and (replace or _is_for(running, base_digest)):
            return running
        stop_controller(home, application)
        time.sleep(_POLL_S)
    raise ClusterError(f"The rollouts' controller of {application!r} does not end.", hint="`ray list actors` shows it.")


def _is_for(controller: ActorHandle, base_digest: Digest) -> bool:
    """Return True if a controller belongs to a base model, or is being restarted."""
    try:
        found: Digest = ray.get(controller.base_digest.remote(), timeout=_NAME_IN_USE_S)
    except RayError:
        return True
    return found == base_digest


def stop_controller(home: str, application: str) -> None:
    """End an application's controller; one that isn't running is fine. Rollouts under way stay as they are."""
    with contextlib.suppress(ValueError, RayError):
        ray.kill(controller_actor(home, application), no_restart=True)


def _start(home: str, application: str, base_digest: Digest, token: str | None, *, get_if_exists: bool) -> ActorHandle:
    return ControllerActor.options(  # type: ignore[attr-defined]
        name=_name(home, application),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=get_if_exists,
        scheduling_strategy=BY_ITSELF,
    ).remote(Location(home).uri, application, base_digest, token)


def _name(home: str, application: str) -> str:
    return f"rollouts-{hashlib.sha256(Location(home).root.encode()).hexdigest()[:12]}-{application}"
