"""Latencies of an application's versions, over all of its replicas, as of some seconds ago."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from llamafarm_ray.serving.activity import Seen

__all__ = ["Kept", "Latencies"]

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
        """What was seen, as latencies."""
        measured = {ref: found for ref, one in seen.items() if (found := one.latency_ms) is not None}
        return cls(measured, sum(seen.values(), Seen()).latency_ms)

    def get(self, ref: str) -> float | None:
        """That of a version; where it answered nothing yet, that of all: they share one engine."""
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

    async def get(self) -> T:
        """The answer; raises what the question does."""
        async with self._lock:
            if self._last is None or self._clock() - self._last[0] >= self._keep_s:
                self._last = (self._clock(), await self._ask())
            return self._last[1]
