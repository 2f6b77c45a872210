"""Fair queue of requests in front of the engine: keys take turns by the tokens they were served.

This is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024,
https://arxiv.org/abs/2401.00588), algorithm 2: each key has a counter of the service it got; the next request is one of
the key with the lowest; a key that comes back is lifted to the others, so nobody saves up turns by being idle. It never
leaves the engine idle while somebody waits. One thing differs, because the engine is behind HTTP: an answer is charged
when it has ended, not token by token.

Where the queue is full, the key with the most waiting gives up its newest: the buffer stealing of McKenney's
stochastic fairness queueing (INFOCOM 1990). So a flood fills the queue, and still keeps nobody out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from llamafarm_ray.errors import InputError
from llamafarm_ray.serving.http.errors import LimitError

__all__ = ["FairQueue", "Turn"]

_SMOOTHING = 0.1
"""The weight of the newest request in the mean time that one takes."""


@dataclass(slots=True)
class Turn:
    """A request's turn at the engine; ``cost`` is what it was charged so far, to be set to all that it took."""

    cost: float


class FairQueue:
    """The queue in front of one engine.

    Args:
        num_slots: requests that the engine works on at once.
        max_waiting: requests that wait for it.
        timeout_s: seconds that a request waits at most.
        on_change: called with how many requests wait, when that changed.
    """

    def __init__(
        self, num_slots: int, max_waiting: int, timeout_s: float, on_change: Callable[[int], object] = lambda _: None
    ) -> None:
        self._num_free = num_slots
        self._num_slots = num_slots
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._waiting: dict[str, deque[tuple[asyncio.Future[None], float]]] = {}
        self._served: dict[str, float] = {}
        self._last = ""
        self._mean_s = 1.0

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return sum(map(len, self._waiting.values()))

    @contextlib.asynccontextmanager
    async def turn(self, key: str, cost: float, gone: Callable[[], asyncio.Future[None]]) -> AsyncIterator[Turn]:
        """Wait for a turn; the block is the time at the engine.

        Args:
            cost: its initial cost: the tokens of its prompt, above 0. Never a guess of the answer's: what
                is charged too much puts others who come meanwhile behind for good.
            gone: gives what is done when the client has gone away; asked only if the request has to wait.

        Raises:
            LimitError: too many wait, or it waited for too long.
            InputError: the client went away.
        """
        await self._wait(key, cost, gone)
        taken, begun = Turn(cost), asyncio.get_running_loop().time()
        try:
            yield taken
        finally:
            took_s = asyncio.get_running_loop().time() - begun
            self._mean_s += _SMOOTHING * (took_s - self._mean_s)
            self._free(key, taken.cost - cost)

    async def _wait(self, key: str, cost: float, gone: Callable[[], asyncio.Future[None]]) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enter(key, place, cost)
        self._next()
        if self.num_waiting > self._max_waiting:
            self._give_up_one()
        if not place.done():
            left = gone()
            try:
                await asyncio.wait({place, left}, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                if place.done() and place.exception() is None:  # its turn came meanwhile
                    self._free(key, -cost)
                self._leave(key, place)
                raise
        if place.done():
            return place.result()
        self._leave(key, place)
        if left.done():
            raise InputError("The client went away while its request waited.")
        raise self._refusal(f"The request waited for {self._timeout_s:g} s without a turn.")

    def _free(self, key: str, more: float) -> None:
        """Give a slot back, and charge the rest of the cost."""
        self._served[key] += more
        self._num_free += 1
        self._next()

    def _enter(self, key: str, place: asyncio.Future[None], cost: float) -> None:
        if key not in self._waiting:
            others = (self._served[other] for other in self._waiting)
            lift = min(others, default=self._served.get(self._last, 0.0))
            self._served[key] = max(self._served.get(key, 0.0), lift)
        self._waiting.setdefault(key, deque()).append((place, cost))
        self._on_change(self.num_waiting)

    def _leave(self, key: str, place: asyncio.Future[None]) -> None:
        """Take a place out of its line, if it is still there."""
        kept = deque(waiting for waiting in self._waiting.pop(key, ()) if waiting[0] is not place)
        if kept:
            self._waiting[key] = kept
        self._on_change(self.num_waiting)

    def _next(self) -> None:
        while self._num_free > 0 and self._waiting:
            key = min(self._waiting, key=self._served.__getitem__)
            place, cost = self._waiting[key].popleft()
            if not self._waiting[key]:
                del self._waiting[key]
            self._last = key
            self._served[key] += cost
            self._num_free -= 1
            place.set_result(None)
            self._on_change(self.num_waiting)

    def _give_up_one(self) -> None:
        key = max(self._waiting, key=lambda key: len(self._waiting[key]))
        place, _ = self._waiting[key][-1]
        self._leave(key, place)
        place.set_exception(
            self._refusal(f"{self._max_waiting} requests wait already, and those of this key are the most.")
        )

    def _refusal(self, message: str) -> LimitError:
        retry_after_s = self._mean_s * (1 + self.num_waiting / self._num_slots)
        return LimitError(message, retry_after_s=retry_after_s, hint="The replica is busy: ask again later.")
