"""Follow a job to its end, over a connection that may be lost on the way."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

from llamafarm_ray.errors import ClusterError
from llamafarm_ray.workflows.clusters.time_limit import within
from llamafarm_ray.workflows.jobs.server import REQUEST_S, JobServer

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

__all__ = ["RunningJob"]

_SILENCE_S = 3.0
"""After so long without output, the job server is asked for the job's status."""
_PATIENCE_S = 300.0
"""Longest wait for a lost connection."""
_BETWEEN_TRIES_S = 2.0


class RunningJob:
    """A job that is followed.

    Args:
        on_trouble: called with a line about a connection that is lost, or there again.
    """

    def __init__(self, server: JobServer, job_id: str, *, on_trouble: Callable[[str], None] = lambda _: None) -> None:
        self.job_id = job_id
        self._server = server
        self._on_trouble = on_trouble
        self._num_read = 0
        self._details: JobDetails | None = None

    def output(self) -> Iterator[str]:
        """Yield the job's output from the end of the last call on, as it is printed, until the job ends.

        A lost connection is made again; the job does not notice.

        Raises:
            ClusterError: the connection is lost for good, or the cluster forgot the job.
        """
        while True:
            ended_well = yield from self._tail()
            details, _ = self._ask()
            if details.status.is_terminal():
                if not ended_well:
                    yield self._unread()
                self._details = details
                return
            time.sleep(_SILENCE_S / 10)

    def exit_status(self) -> int:
        """Return an ended job's exit status, or 128 and the signal's number if a signal ended it.

        Raises:
            ClusterError: it never ran, or was stopped.
        """
        assert self._details is not None, "output() says when it ended"
        if self.was_stopped:
            raise ClusterError(f"The job {self.job_id} was stopped.", hint="Submit it again to start it anew.")
        code = self._details.driver_exit_code
        if code is None and self._details.status != "SUCCEEDED":
            why = (self._details.message or "no reason is known").strip().splitlines()[-1]
            raise ClusterError(f"The job {self.job_id} did not run: {why[:500]}", hint="Its cluster may say more.")
        code = code or 0
        return code if code >= 0 else 128 - code

    @property
    def was_stopped(self) -> bool:
        """True if it was stopped."""
        return self._details is not None and self._details.status == "STOPPED"

    def stop(self) -> None:
        """Ask for its end; ``output`` goes on until it has ended.

        Raises:
            ClusterError: the request can't be made.
        """
        self._server.stop(self.job_id)

    def _tail(self) -> Generator[str, None, bool]:
        """Yield new output until it ends or stays away; return whether the job server ended it."""
        arriving: queue.SimpleQueue[str | bool] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(arriving,), daemon=True).start()
        position = 0
        while True:
            try:
                piece = arriving.get(timeout=_SILENCE_S)
            except queue.Empty:
                details, lost = self._ask()
                if lost or details.status.is_terminal():
                    return False
                continue
            if isinstance(piece, bool):
                return piece
            position += len(piece)
            if position > self._num_read:
                fresh = piece[-(position - self._num_read) :]
                self._num_read = position
                yield fresh

    def _read(self, arriving: queue.SimpleQueue[str | bool]) -> None:
        """Put a job's output, from its first character, into a queue, and then whether it came to its end."""
        import aiohttp  # part of Ray's job client

        async def read() -> None:
            async for text in self._server.client.tail_job_logs(self.job_id):
                arriving.put(text)

        try:
            asyncio.run(read())
            arriving.put(True)
        except (OSError, RuntimeError, aiohttp.ClientError):
            arriving.put(False)

    def _unread(self) -> str:
        """The output that did not arrive as it was printed."""
        try:
            whole: str = within(REQUEST_S, lambda: self._server.client.get_job_logs(self.job_id))
        except (OSError, RuntimeError):
            self._on_trouble(f"The end of its output did not arrive. It is in: ray job logs {self.job_id}")
            return ""
        fresh, self._num_read = whole[self._num_read :], max(self._num_read, len(whole))
        return fresh

    def _ask(self) -> tuple[JobDetails, bool]:
        """Return the job's details, and True if the connection was lost before they came."""
        lost_at: float | None = None
        while True:
            try:
                details = self._server.details(self.job_id)
            except TimeoutError as error:
                if lost_at is None:
                    lost_at = time.monotonic()
                    self._on_trouble(f"The connection is lost ({error}) Trying again; the job does not notice.")
                if time.monotonic() - lost_at > _PATIENCE_S:
                    raise ClusterError(
                        f"{self._server.address} has not answered for {_PATIENCE_S:.0f} s. "
                        f"The job {self.job_id} was left alone.",
                        hint=f"Follow it: ray job logs --follow --address {self._server.address} {self.job_id}",
                    ) from None
                time.sleep(min(_BETWEEN_TRIES_S, _PATIENCE_S / 5))
                continue
            if lost_at is not None:
                self._on_trouble("The connection is there again.")
            return details, lost_at is not None
