"""A live copy of the registry's state, kept current by watching the registry actor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from ray.actor import ActorHandle
from ray.exceptions import RayError

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry.history.snapshots import Snapshots
from llamafarm_ray.registry.remote.actor import registry_actor
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.registry.updates import Update
from llamafarm_ray.storage import Location

__all__ = ["RegistryView"]

logger = logging.getLogger(__name__)

_WATCH_S = 20.0
_RETRY_S = 0.5
_LOST_S = 60.0
"""An answer that is later than it should be by this much will not come any more, and is asked for again."""


class RegistryView:
    """The state as of a second ago, as a rule. Without the actor it keeps answering from its copy.

    Attributes:
        on_change: called when that has changed, on the event loop.
        on_read: called with True after the registry was followed for a while, and with False when it can't be read.
    """

    def __init__(self, home: str) -> None:
        self.state = RegistryState()
        self.on_change: Callable[[], object] = lambda: None
        self.on_read: Callable[[bool], object] = lambda _: None
        self._home = home
        self._actor: ActorHandle = registry_actor(home)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the newest snapshot and what came after it, then follow the log in the background."""
        snapshot = await asyncio.to_thread(Snapshots(Location(self._home)).newest)
        if snapshot is not None:
            self.state = snapshot.state
        await self.refresh()
        self._task = asyncio.create_task(self._follow())

    async def refresh(self, *, within_s: float = _LOST_S) -> None:
        """Apply the commits up to now.

        Args:
            within_s: seconds to wait for the actor.

        Raises:
            TimeoutError: the actor does not answer.
            RayError: it is gone.
            LlamaFarmError: it can't read the log.
        """
        await self._take(0.0, within_s)

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self) -> None:
        while True:
            try:
                await self._take(_WATCH_S, _WATCH_S + _LOST_S)
                self.on_read(True)
            except (RayError, LlamaFarmError, TimeoutError) as error:
                # The actor restarts from the log, and the log's store comes back: until then this copy stands.
                self.on_read(False)
                logger.warning("The registry can't be read (%s); the last known state stays in use.", error)
                await asyncio.sleep(_RETRY_S)
                self._find_actor()

    def _find_actor(self) -> None:
        try:
            self._actor = registry_actor(self._home)
        except (RayError, ValueError) as error:  # the next turn tries again
            logger.warning("The registry actor can't be found: %s", error)

    async def _take(self, timeout_s: float, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                known = self.state
                sent = await self._actor.changes_after.remote(known.sequence, known.last_key, timeout_s)
        except TimeoutError:
            raise TimeoutError(f"the registry's actor does not answer within {within_s:g} s") from None
        before = self.state
        self.state = Update.of_bytes(sent).after(before)  # no await in between: two takes at once can't mix
        if self.state is not before:
            self.on_change()
