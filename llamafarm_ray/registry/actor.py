"""The registry actor: the one place of a cluster that everybody watches. A shell over :class:`RegistryService`."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import ray

from llamafarm_ray.registry.log import Commit
from llamafarm_ray.registry.service import RegistryService
from llamafarm_ray.storage import Location

__all__ = ["NAMESPACE", "registry_actor"]

NAMESPACE = "llamafarm"
_POLL_S = 0.2
"""How often the log is looked at for commits of other writers, while somebody waits."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class RegistryActor:
    """Follows the log at ``home`` and hands its commits to whoever waits. Holds nothing that the log does not."""

    def __init__(self, home: str) -> None:
        self._service = RegistryService(Location(home))

    async def commits_since(self, sequence: int, timeout_s: float) -> list[Commit]:
        """The commits after ``sequence``, as soon as there is one; none when ``timeout_s`` has passed."""
        deadline = time.monotonic() + timeout_s
        while True:
            await asyncio.to_thread(self._service.refresh)
            if self._service.state.sequence > sequence or time.monotonic() >= deadline:
                return self._service.history[sequence:]
            await asyncio.sleep(_POLL_S)


def registry_actor(home: str) -> Any:
    """The handle of the actor for ``home``, started (detached) if it isn't running."""
    location = Location(home)
    name = f"registry-{hashlib.sha256(location.root.encode()).hexdigest()[:12]}"
    return RegistryActor.options(  # type: ignore[attr-defined]
        name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote(location.uri)
