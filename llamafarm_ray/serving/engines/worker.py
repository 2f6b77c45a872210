"""A thread that computes several answers at the same time, a step of each in turn, away from the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["Worker"]

T = TypeVar("T")


class _Job(Generic[T]):
    """Steps that are computed on the thread, and the queue that takes them to the event loop that asked."""

    def __init__(self, steps: Callable[[], Iterator[T]], loop: asyncio.AbstractEventLoop) -> None:
        self._make = steps
        self._steps: Iterator[T] | None = None
        self._loop = loop
        self.done: asyncio.Queue[T | Exception | None] = asyncio.Queue()
        self.is_cancelled = False

    def step(self) -> bool:
        """Compute one step and hand it over; whether there are more."""
        if self.is_cancelled:
            self._close()
            return False
        try:
            if self._steps is None:
                self._steps = self._make()
            self._tell(next(self._steps))
        except StopIteration:
            self._tell(None)
            return False
        except Exception as error:  # noqa: BLE001 - raised again where the steps are awaited
            self._tell(error)
            return False
        return True

    def _tell(self, value: T | Exception | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.done.put_nowait, value)

    def _close(self) -> None:
        close = getattr(self._steps, "close", None)
        if close is not None:
            close()


class Worker:
    """Runs iterators on one thread, round robin, so that a long answer doesn't make a short one wait for its end.

    The thread starts with the first job, and never keeps a process from ending.

    Args:
        name: of the thread, for people who look at stacks.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[_Job[Any]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    async def run(self, steps: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
        """The steps of an iterator that is made, and advanced, on the thread.

        When this generator is closed, the iterator is closed after the step that is being computed.

        Args:
            steps: makes the iterator; what it raises is raised here.
        """
        job: _Job[T] = _Job(steps, asyncio.get_running_loop())
        self._add(job)
        try:
            while (step := await job.done.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            job.is_cancelled = True

    @property
    def num_jobs(self) -> int:
        """Number of unfinished iterators."""
        return len(self._jobs)

    @property
    def is_dead(self) -> bool:
        """True if the thread has ended by an exception that no iterator may raise (``SystemExit``)."""
        return self._thread is not None and not self._thread.is_alive()

    def _add(self, job: _Job[T]) -> None:
        with self._changed:
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._jobs) > 0)
                job = self._jobs[0]
            has_more = job.step()
            with self._changed:
                self._jobs.popleft()
                if has_more:
                    self._jobs.append(job)
            del job  # while the thread waits, a model that is unloaded must not be kept by its last answer
