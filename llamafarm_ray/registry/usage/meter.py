"""Meter of one piece of work: it adds up the use of devices, tokens and storage for the ledger."""

from __future__ import annotations

import datetime as dt
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry.usage.ledger import CPU, Amounts, Work, WorkKey, write_page
from llamafarm_ray.storage import Location
from llamafarm_ray.types import DeviceUse

__all__ = ["Meter"]

logger = logging.getLogger(__name__)

_WRITE_S: Final = 60.0


class Meter:
    """Adds up the use of devices by one piece of work. It writes every minute, and when its block ends.

    Writing is done in a thread, so that slow or absent storage delays no request. A page that can't be written is
    named in the log, and tried again with the next write; the work goes on.

    Args:
        name: the model or dataset.
        gpu: gives the GPUs' type; called once, when a GPU was used.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        home: Location,
        namespace: str,
        name: str,
        work: Work,
        *,
        gpu: Callable[[], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home = home
        self._namespace, self._name, self._work = namespace, name.rpartition("/")[2], work
        self._gpu = gpu
        self._gpu_name = ""
        self._clock = clock
        self._writer = secrets.token_hex(8)
        self._days: dict[dt.date, dict[WorkKey, Amounts]] = {}
        self._wrote_s = clock()
        self._writing: Future[list[dt.date]] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llamafarm-usage")

    def add(self, use: DeviceUse) -> None:
        """Count use that ended just now."""
        if use.on_gpu and not self._gpu_name:
            self._gpu_name = self._gpu()
        now_s = self._clock()
        key = WorkKey(self._namespace, self._name, self._work, self._gpu_name if use.on_gpu else CPU)
        today = self._days.setdefault(dt.datetime.fromtimestamp(now_s, dt.UTC).date(), {})
        today.setdefault(key, Amounts()).take_in(Amounts(use.seconds))
        if now_s - self._wrote_s >= _WRITE_S and (self._writing is None or self._writing.done()):
            self._wrote_s = now_s
            self._begin_to_write()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._begin_to_write()
        self._thread.shutdown(wait=True)

    def _begin_to_write(self) -> None:
        """Write all days; those before today need no second write once they are written."""
        if self._writing is not None:
            written = self._writing.result()
            for day in written[:-1]:
                del self._days[day]
        pages = {day: [(key, Amounts(used.device_s)) for key, used in rows.items()] for day, rows in self._days.items()}
        self._writing = self._thread.submit(self._write, pages)

    def _write(self, pages: dict[dt.date, list[tuple[WorkKey, Amounts]]]) -> list[dt.date]:
        written = []
        for day in sorted(pages):
            try:
                write_page(self._home, day, self._writer, pages[day])
            except LlamaFarmError as error:
                logger.warning("The use of devices could not be recorded: %s", error)
                break
            written.append(day)
        return written
