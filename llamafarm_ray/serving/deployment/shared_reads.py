"""Reads of one source that many callers wait for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["SharedReads"]


class SharedReads:
    """Reads one after the other; callers that come before the next one begins share it.

    A caller never gets a read that was under way when it came: what it asks for may be newer than that.

    Args:
        read: reads once.
        spacing_s: seconds between the beginnings of two reads, at least.
    """

    def __init__(self, read: Callable[[], Awaitable[None]], *, spacing_s: float) -> None:
        self._read = read
        self._spacing_s = spacing_s
        self._begun_s = -spacing_s
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Wait for the end of a read that begins after this call.

        Raises:
            Exception: the one that the read raised.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._run())
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())  # all callers may be gone
        await asyncio.shield(self._next)

    async def _run(self) -> None:
        async with self._lock:
            clock = asyncio.get_running_loop().time
            await asyncio.sleep(self._begun_s + self._spacing_s - clock())
            self._begun_s = clock()
            self._next = None
            await self._read()
