"""Watch of a log for any number of callers of one event loop: one look at the store serves all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

__all__ = ["LogWatch"]


class LogWatch:
    """Polls a log on request, and at intervals while callers wait for news.

    Args:
        refresh: reads what is new in the log; called in a thread.
        threads: executor of that call.
        poll_s: seconds between two looks while somebody waits.
    """

    def __init__(self, refresh: Callable[[], object], threads: Executor, poll_s: float) -> None:
        self._refresh = refresh
        self._threads = threads
        self._poll_s = poll_s
        self._looking: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._poller: asyncio.Task[None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._num_waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def look(self) -> None:
        """Return after a look at the log that began after this call; all who call until it begins share it.

        Raises:
            LlamaFarmError: the log can't be read, or could not be by the look that was under way: a store that is away
                for half a minute is not waited for twice.
        """
        if self._next is None:
            is_under_way = self._looking is not None and not self._looking.done()
            self._next = asyncio.create_task(self._look_after(self._looking if is_under_way else None))
        await asyncio.shield(self._next)

    async def wait(self, timeout_s: float) -> None:
        """Wait for news, or until the time has passed.

        Raises:
            LlamaFarmError: the log can't be read.
        """
        self._loop = asyncio.get_running_loop()
        if self._news is None:
            self._news = self._loop.create_future()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        self._num_waiting += 1
        try:
            done, _ = await asyncio.wait({self._news}, timeout=timeout_s)
        finally:
            self._num_waiting -= 1
        for news in done:
            news.result()

    def announce(self) -> None:
        """Wake all who wait; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self, error: Exception | None = None) -> None:
        news, self._news = self._news, None
        if news is None:
            return
        if error is None:
            news.set_result(None)
        else:
            news.set_exception(error)
            news.exception()  # nobody may wait any more

    async def _look_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
            if (error := before.exception()) is not None:
                self._next = None
                raise error
        self._looking, self._next = self._next, None
        await asyncio.get_running_loop().run_in_executor(self._threads, self._refresh)

    async def _poll(self) -> None:
        """Poll while callers wait; an error is raised in each of them."""
        while True:
            await asyncio.sleep(self._poll_s)
            if not self._num_waiting:
                return
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - it is raised where somebody waits
                self._tell(error)
