"""The registry actor: a cluster's one writer, and the source of updates for all watchers. A shell over the service."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import ray
from ray.actor import ActorHandle

from llamafarm_ray.errors import AccessDeniedError, PolicyError
from llamafarm_ray.registry.api import Outcome
from llamafarm_ray.registry.commands import Command
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.identity import Identity
from llamafarm_ray.registry.preconditions import utc_now
from llamafarm_ray.registry.remote.metrics import export
from llamafarm_ray.registry.service import RegistryService
from llamafarm_ray.registry.state import VersionRecord
from llamafarm_ray.registry.updates import UpdateFeed
from llamafarm_ray.storage import Location
from llamafarm_ray.telemetry.logs import set_up_logs
from llamafarm_ray.types import ModelRef

__all__ = ["BY_ITSELF", "NAMESPACE", "registry_actor"]

NAMESPACE = "llamafarm"
BY_ITSELF = "DEFAULT"
"""A scheduling strategy for actors that outlive their maker.

Without one, an actor that a replica makes is placed in the replica's placement group, and ends with it for good.
"""
_POLL_S = 0.2
"""Seconds between two looks at the log for commits of other writers, while callers wait."""
_MAX_CALLERS = 64
_MAX_CALLS = 10_000
"""Calls that run at a time: each watcher's is one, and Ray's own limit of 1,000 would leave none for other callers."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=_MAX_CALLS)
class RegistryActor:
    """Follows the log at ``home``, hands its commits to waiting watchers, and commits callers' commands.

    It holds nothing that the log does not: killed at any moment, it comes back with every commit that it acknowledged.
    Ray repeats calls that a death cut off; their idempotency keys see to it that nothing is done twice.
    """

    def __init__(self, home: str) -> None:
        set_up_logs()
        self._service = RegistryService(Location(home))
        _give_back_memory()
        self._callers = ThreadPoolExecutor(_MAX_CALLERS, thread_name_prefix="registry")
        self._feed = UpdateFeed(self._service, self._callers, _POLL_S)
        self._meters, _ = export(lambda: self._service.state, utc_now)
        self._service.on_commit(self._announce)

    async def submit(self, command: Command, identity: Identity, reason: str, idempotency_key: str) -> Outcome:
        """See :meth:`RegistryApi.submit`."""
        call = partial(self._service.submit, command, reason=reason, idempotency_key=idempotency_key, identity=identity)
        return await asyncio.get_running_loop().run_in_executor(self._callers, call)

    async def allow(self, action: Action, namespace: str, target: str, identity: Identity) -> None:
        """See :meth:`RegistryApi.allow`."""
        call = partial(self._service.allow, action, namespace, target=target, identity=identity)
        await asyncio.get_running_loop().run_in_executor(self._callers, call)

    async def may(self, action: Action, namespace: str, identity: Identity) -> bool:
        """See :meth:`RegistryApi.may`."""
        return self._service.may(action, namespace, identity=identity)

    async def record_refusal(
        self, action: Action, target: str, error: AccessDeniedError | PolicyError, identity: Identity
    ) -> None:
        """See :meth:`RegistryApi.record_refusal`."""
        call = partial(self._service.record_refusal, action, target, error, identity=identity)
        await asyncio.get_running_loop().run_in_executor(self._callers, call)

    async def pid(self) -> int:
        """The process it runs in."""
        return os.getpid()

    async def resolve(self, ref: ModelRef) -> VersionRecord:
        """The version a reference names, in the newest state this actor has seen."""
        return self._service.state.resolve(ref)

    async def changes_after(self, sequence: int, last_key: str, timeout_s: float) -> bytes:
        """Return the news since a watcher's state as soon as there is any; an empty update when the time has passed.

        Args:
            sequence: the newest commit that the watcher has.
            last_key: the idempotency key of the last change in it.
            timeout_s: timeout in seconds.
        """
        return await self._feed.after(sequence, last_key, timeout_s)

    def _announce(self) -> None:
        self._meters.committed(self._service.recent[-1])
        self._feed.announce()


def _give_back_memory() -> None:
    """Return to the system what parsing a snapshot took; glibc keeps it otherwise (34 MB of 10,000 versions)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def registry_actor(home: str) -> ActorHandle:
    """The handle of the actor for ``home``, started (detached) if it isn't running."""
    location = Location(home)
    name = f"registry-{hashlib.sha256(location.root.encode()).hexdigest()[:12]}"
    return RegistryActor.options(  # type: ignore[attr-defined]
        name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, scheduling_strategy=BY_ITSELF
    ).remote(location.uri)
