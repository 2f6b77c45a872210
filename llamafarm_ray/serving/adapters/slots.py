"""Limit of the number of distinct adapters in use at once to the engine's slots.

vLLM alone lets requests of adapters that have a slot pass those that wait for one, so a few busy adapters would keep
all others out for good. Here adapters take turns: one that waits for longer than a moment is let in before those that
have a slot may begin further requests, and with it all that wait for the same adapter, so that they share a batch.

A version that takes another's place gets the spare slot. So its first requests don't wait until the last answer of the
other is written, and requests for other versions don't wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from llamafarm_ray.serving.http.errors import LimitError

__all__ = ["AdapterSlots"]

_TENURE_S = 0.1
"""Seconds that other requests wait before an adapter that holds a slot may begin no more requests."""
_RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class _Line:
    """Requests that wait for one adapter's slot."""

    since: float
    places: list[asyncio.Future[None]] = field(default_factory=list)


class AdapterSlots:
    """Hands out slots to adapters.

    Args:
        num_slots: adapters that are in use at once, beside one on the spare slot.
        timeout_s: seconds that a request waits at most.
        is_passing: function that returns True if an adapter replaces another one or makes room for one: it may have the
            spare slot.
    """

    def __init__(
        self,
        num_slots: int,
        *,
        timeout_s: float,
        is_passing: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._num_slots = num_slots
        self._timeout_s = timeout_s
        self._is_passing = is_passing
        self._users: dict[str, int] = {}
        self._lines: dict[str, _Line] = {}  # who came first is first

    def is_taken(self, name: str) -> bool:
        """Return True if requests use an adapter now."""
        return name in self._users

    @contextlib.asynccontextmanager
    async def slot(self, name: str) -> AsyncIterator[None]:
        """Wait for an adapter's slot; the block is the time in use.

        Raises:
            LimitError: it waited for too long.
        """
        if name in self._users and not self._is_somebody_due():
            self._users[name] += 1
        else:
            await self._wait(name)
        try:
            yield
        finally:
            self._leave(name)

    def let_in(self) -> None:
        """Let in who may have a slot now: called when one is free, and when other adapters are passing."""
        is_blocked = False
        for name in list(self._lines):
            if (not is_blocked) if name in self._users else self._is_room_for(name):
                for place in self._lines.pop(name).places:
                    if not place.done():  # of who is going away right now
                        self._users[name] = self._users.get(name, 0) + 1
                        place.set_result(None)
            else:
                is_blocked = True

    def _is_somebody_due(self) -> bool:
        first = next(iter(self._lines.values()), None)
        return first is not None and asyncio.get_running_loop().time() - first.since >= _TENURE_S

    def _is_room_for(self, name: str) -> bool:
        names = {*self._users, name}
        return len(names) - any(map(self._is_passing, names)) <= self._num_slots

    async def _wait(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        self._lines.setdefault(name, _Line(loop.time())).places.append(place)
        self.let_in()
        try:
            async with asyncio.timeout(self._timeout_s):
                await place
        except TimeoutError:
            self._give_up(name, place)
            raise LimitError(
                f"The request waited for {self._timeout_s:g} s, and {self._num_slots} other adapters are in use.",
                retry_after_s=_RETRY_AFTER_S,
                hint="Ask again later, or set deployment.max_loras higher.",
            ) from None
        except asyncio.CancelledError:
            self._give_up(name, place)
            raise

    def _give_up(self, name: str, place: asyncio.Future[None]) -> None:
        """Leave the line, or the slot where it was given meanwhile."""
        if place.done() and not place.cancelled():
            self._leave(name)
            return
        line = self._lines.get(name)
        if line is not None and place in line.places:
            line.places.remove(place)
            if not line.places:
                del self._lines[name]
        self.let_in()  # others may have waited for this one alone

    def _leave(self, name: str) -> None:
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name]
        self.let_in()
