"""Latencies of an application's versions, over all of its replicas, as of some seconds ago."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from llamafarm_ray.serving.telemetry.request_statistics import Seen

__all__ = ["Kept", "Lasting", "Latencies"]

logger = logging.getLogger("ray.serve.llamafarm")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Latencies:
    """The 95th percentiles of latencies, in milliseconds.

    Attributes:
        by_version: those that were measured, by ``name:version`` or the base's name.
        overall: of all versions together; ``None`` where nothing was measured.
    """

    by_version: Mapping[str, float] = field(default_factory=dict)
    overall: float | None = None

    @classmethod
    def of(cls, seen: Mapping[str, Seen]) -> Latencies:
        """Return the latencies of request statistics."""
        measured = {ref: found for ref, one in seen.items() if (found := one.latency_ms) is not None}
        return cls(measured, sum(seen.values(), Seen()).latency_ms)

    def get(self, ref: str) -> float | None:
        """Return a version's latency; before its first answer, that of all: they share one engine."""
        return self.by_version.get(ref, self.overall)


class Kept(Generic[T]):
    """The answer to a question that is asked anew when the last answer is old, once for all who wait for it.

    Args:
        ask: gives the answer.
        keep_s: for how long it counts, in seconds.
        clock: seconds, never going back.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[T]], keep_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._keep_s = keep_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: tuple[float, T] | None = None
        self._asking: asyncio.Task[None] | None = None

    async def get(self) -> T:
        """Return the answer, or raise the question's error."""
        async with self._lock:
            if self._last is None or self._age_s(self._last) >= self._keep_s:
                answer = await self._ask()
                self._last = (self._clock(), answer)  # as of now: one that came late counts no less long
            return self._last[1]

    async def get_soon(self, stale_s: float) -> T:
        """The last answer, without waiting for a new one; if it is old, the question is asked anew meanwhile.

        Args:
            stale_s: greatest age in seconds. In place of an older one, a new one is waited for.
        """
        if self._last is None or self._age_s(self._last) >= stale_s:
            return await self.get()
        if self._age_s(self._last) >= self._keep_s and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._renew())
        return self._last[1]

    async def _renew(self) -> None:
        try:
            await self.get()
        except Exception:  # a task of a process: there is nobody to tell but the log
            logger.exception("The kept values could not be renewed.")

    def _age_s(self, last: tuple[float, T]) -> float:
        return self._clock() - last[0]


class Lasting(Generic[T]):
    """Last known value of a source, kept for a while after the source goes silent.

    Args:
        stands_s: for how long, in seconds.
        clock: seconds, never going back.
    """

    def __init__(self, stands_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stands_s = stands_s
        self._clock = clock
        self._last: tuple[float, T] | None = None

    def told(self, said: T | None) -> T | None:
        """Return the value to use, given the source's new one; ``None`` is silence."""
        if said is not None:
            self._last = (self._clock(), said)
        elif self._last is not None and self._clock() - self._last[0] >= self._stands_s:
            self._last = None
        return self._last[1] if self._last is not None else None
