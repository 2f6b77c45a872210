"""Reconciler of an application's record in the registry, and of its versions' rollouts to production.

``serve deploy`` only starts replicas, so these see to the rest of what ``llamafarm models deploy`` does.
``swap-adapter``, ``promote``, ``chat`` and the collector of files look up deployments in the registry.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from ray.exceptions import RayError

from llamafarm_ray.config import Rollout
from llamafarm_ray.errors import AccessDeniedError, ConflictError, InfrastructureError, LlamaFarmError, PolicyError
from llamafarm_ray.registry import DeploymentRecorded, RegistryApi
from llamafarm_ray.registry.commands import RecordDeployment, RemoveDeployment
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.serving.rollouts.start import roll_out

__all__ = ["DesiredDeployment", "Reconciler", "check_record", "is_same_cluster", "withdraw"]

logger = logging.getLogger(__name__)

_LOOK_S = 30.0
_ANSWER_S = 5.0
_MISSED = 2
"""So many looks in a row must miss the record before it is made again: its replicas outlive a stop for a moment."""


@dataclass(frozen=True, slots=True)
class DesiredDeployment:
    """Desired record of an application.

    Attributes:
        adapters: the versions (``name:version``) that it was deployed with.
        rollout: plan by which the others become production; ``None``: they don't.
    """

    application: str
    base_name: str
    base_digest: str
    adapters: tuple[str, ...] = ()
    rollout: Rollout | None = None


class Reconciler:
    """Keeps the registry told of an application, for a replica of it.

    The deployment is recorded, and recorded again where the record is lost; not where another one has taken its place,
    or where another cluster serves under its name. Rollouts are begun once: what was rolled back, by whomever, is not
    rolled out again by a replica that starts. A permanent refusal of the registry (a role, a policy) is logged, and
    left to people.

    Args:
        state: the registry's, as last read by this process.
        connect: the registry, with the token that this process has.
        place: the application's URL and the cluster's address; raises ``ClusterError`` while it has none.
        start_controller: sees to it that the application has a controller.
    """

    def __init__(
        self,
        announcement: DesiredDeployment,
        *,
        state: Callable[[], RegistryState],
        connect: Callable[[], RegistryApi],
        place: Callable[[], tuple[str, str]],
        start_controller: Callable[[], object],
    ) -> None:
        self._announcement = announcement
        self._state = state
        self._connect = connect
        self._place = place
        self._start_controller = start_controller
        self._is_recorded = False
        self._missed = 0
        self._may_record = True
        self._to_roll_out = list(announcement.adapters) if announcement.rollout is not None else []
        self._said: dict[str, str] = {}

    async def run(self, every_s: float = _LOOK_S) -> None:
        """Look now and then, for ever; requests are answered meanwhile."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(every_s)

    def look(self) -> None:
        """Do the open steps that are possible now."""
        self._try("The deployment is not on record", self._record)
        if self._is_current():
            self._try("The controller could not be started", self._steer)
        for reference in list(self._to_roll_out):
            self._try(f"{reference} is not rolled out", functools.partial(self._roll_out, reference))

    def _steer(self) -> None:
        self._place()  # one that is being deleted has none, and needs no controller for its last answers
        self._start_controller()

    def _is_current(self) -> bool:
        """Return True if the application still serves this base model; old replicas outlive a redeployment."""
        found = self._state().deployments.get(self._announcement.application)
        return found is None or found.base_digest == self._announcement.base_digest

    def _record(self) -> None:
        found = self._state().deployments.get(self._announcement.application)
        if self._is_recorded:
            self._missed = self._missed + 1 if found is None else 0
            if self._missed < _MISSED:
                return
        if not self._may_record:
            return
        url, ray_address = self._place()
        told = self._announcement
        wanted = DeploymentRecorded(
            application=told.application,
            base_model=told.base_name,
            base_digest=told.base_digest,
            url=url,
            ray_address=ray_address,
            adapters=told.adapters,
        )
        if found is not None and found.url != url:
            check_record(found, ray_address)
        if found != wanted:
            try:
                self._connect().submit(RecordDeployment(wanted), reason="it serves")
            except AccessDeniedError:
                self._may_record = False
                raise
        self._is_recorded, self._missed = True, 0

    def _roll_out(self, reference: str) -> None:
        rollout = self._announcement.rollout
        if rollout is None:
            return
        try:
            roll_out(self._connect(), [reference], rollout, reason="it serves", once=True)
        except (ConflictError, InfrastructureError):  # another rollout is under way, or something is down: that ends
            raise
        except LlamaFarmError:
            self._to_roll_out.remove(reference)
            raise
        self._to_roll_out.remove(reference)

    def _try(self, problem: str, step: Callable[[], object]) -> None:
        try:
            step()
        except (LlamaFarmError, RayError) as error:
            if self._said.get(problem) != str(error):  # once, not every time
                logger.warning("%s: %s: %s", self._announcement.application, problem, error)
            self._said[problem] = str(error)
        except Exception:  # a process's loop: there is nobody to tell but the log
            logger.exception("%s: %s.", self._announcement.application, problem)
        else:
            self._said.pop(problem, None)


def withdraw(registry: RegistryApi, application: str, ray_address: str) -> None:
    """Take an application that is gone off the record, unless another cluster's has its name.

    Raises:
        ClusterError: the registry does not answer.
    """
    recorded = registry.refresh().deployments.get(application)
    if recorded is None or not is_same_cluster(recorded.ray_address, ray_address):
        return
    try:
        registry.submit(RemoveDeployment(recorded), reason="it serves no more")
    except (AccessDeniedError, PolicyError) as error:
        logger.warning("%s is gone, and stays on record: %s", application, error)


def check_record(recorded: DeploymentRecorded, ray_address: str) -> None:
    """Make sure that a deployment may take another's place on the record.

    It may if both are on the same cluster, or the other answers no more.

    Args:
        recorded: present record under the application's name.
        ray_address: the address of the cluster that is to serve.

    Raises:
        ConflictError: another cluster serves it. With two of them, swaps would reach one only.
    """
    if is_same_cluster(recorded.ray_address, ray_address) or not _answers(recorded):
        return
    raise ConflictError(
        f"{recorded.application} of this home is served at {recorded.url} already, by the Ray at "
        f"{recorded.ray_address}.",
        hint="Stop that with `llamafarm models undeploy` first, or deploy from another home (--home).",
    )


def _answers(recorded: DeploymentRecorded) -> bool:
    """Return True if what listens at a recorded URL lists the recorded base model, or asks for a key."""
    try:
        response = httpx.get(f"{recorded.url}/models", timeout=_ANSWER_S)
        if response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            return "error" in response.json()
        return recorded.base_model in {card["id"] for card in response.json()["data"]}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):  # nothing, or something else
        return False


def is_same_cluster(one: str, other: str) -> bool:
    """Return True if two ``host:port`` addresses belong to the same cluster, which nodes may know by several names."""
    return one == other or _resolved(one) == _resolved(other)


def _resolved(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    try:
        return socket.gethostbyname(host), port
    except OSError:
        return host, port
