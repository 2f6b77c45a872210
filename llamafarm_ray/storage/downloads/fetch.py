"""Fetch files in parallel pieces, going on where an earlier process was killed."""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llamafarm_ray.errors import NotFoundError, StorageError
from llamafarm_ray.storage.downloads.remote import Patience, Wanted
from llamafarm_ray.storage.downloads.transfer import PIECE_BYTES, ChangedError, StoppedError, Transfer
from llamafarm_ray.storage.failures import NO_SPACE
from llamafarm_ray.types import Digest

__all__ = ["CONNECTIONS", "Fetched", "Progress", "fetch"]

CONNECTIONS = 8
_MAX_CHANGES = 3
_LEAVE_S = 1.0
"""The time an interrupted call waits for each thread; they end with the process at the latest."""

Progress = Callable[[int, int | None], None]
"""A function of the number of bytes so far and, where it is known, of all."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that was fetched: its path below the target, digest, size in bytes, validator and shown address."""

    path: str
    digest: Digest
    size_bytes: int
    validator: str
    address: str


def fetch(
    wanted: Sequence[Wanted],
    folder: Path,
    *,
    patience: Patience | None = None,
    progress: Progress = lambda _done, _total: None,
    note: Callable[[str], None] = lambda _: None,
    finished: Callable[[Fetched], None] = lambda _: None,
    connections: int = CONNECTIONS,
    piece_bytes: int = PIECE_BYTES,
) -> list[Fetched]:
    """Fetch files into a folder of this process alone, and check the known digests.

    Each file has its name when all of its bytes are there and checked. A process that is killed, at any moment, leaves
    part files and sidecars; the next call for the same files goes on within each piece, and fetches at most a sixteenth
    of each again.

    Args:
        wanted: the files; those that are in the folder under their names are not among them.
        patience: limits of time and tries.
        progress: called as bytes arrive, from several threads.
        note: called with notes for the user: that a file changed, or that its server supports no ranges.
        finished: called with each file before it gets its name.
        connections: number of requests at once.
        piece_bytes: bytes of one request.

    Returns:
        the files in the order given, without optional ones that are not there.

    Raises:
        IntegrityError: a file's bytes are not those that its source announced.
        StorageError: it can't be had, or the disk is full.
        AccessDeniedError, NotFoundError: the source refuses it.
    """
    meter = _Meter(progress)
    kept = Patience() if patience is None else patience
    for _ in range(_MAX_CHANGES):
        stop = threading.Event()
        begin = partial(Transfer, patience=kept, count=meter.add, note=note, stop=stop, piece_bytes=piece_bytes)
        transfers = [begin(one, _target(folder, one)) for one in wanted]
        crew = _Crew(connections, stop)
        try:
            return _fetch_once(transfers, folder, meter, crew, finished)
        except ChangedError as changed:
            note(f"{changed.transfer.shown} changed while it was fetched ({changed.reason}): starting over.")
            changed.transfer.drop()
        except OSError as error:
            if error.errno in NO_SPACE:
                for transfer in transfers:  # what is kept would keep the disk full
                    transfer.drop()
            raise StorageError(
                f"{folder} can't be written: {error.strerror or error}.",
                hint="Free space there, or name another folder in LLAMAFARM_CACHE.",
            ) from error
        finally:
            for transfer in transfers if crew.has_ended else ():  # else a thread may still write
                transfer.close()
    raise StorageError(f"{wanted[0].remote.shown} keeps changing.", hint="Wait until no process writes to it.")


def _target(folder: Path, wanted: Wanted) -> Path:
    """Return the path of a file, in a folder that exists."""
    target = folder / wanted.path
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _fetch_once(
    transfers: list[Transfer], folder: Path, meter: _Meter, crew: _Crew, finished: Callable[[Fetched], None]
) -> list[Fetched]:
    meter.reset()
    for transfer in transfers:
        transfer.take_up()
    _check_space(transfers, folder)
    meter.expect(transfers)
    left_out: set[int] = set()

    def first(transfer: Transfer) -> None:
        work = _Work(transfer, finished)
        try:
            transfer.first(lambda numbers: work.spawn(numbers, crew))
        except NotFoundError:
            if not transfer.wanted.is_optional:
                raise
            left_out.add(id(transfer))
            return
        meter.expect(transfers)
        work.done()

    crew.run([partial(first, transfer) for transfer in transfers])
    return [_fetched(transfer) for transfer in transfers if id(transfer) not in left_out]


def _fetched(transfer: Transfer) -> Fetched:
    if transfer.digest is None or transfer.size_bytes is None:
        raise AssertionError("not finished")
    return Fetched(transfer.wanted.path, transfer.digest, transfer.size_bytes, transfer.validator, transfer.shown)


def _check_space(transfers: Sequence[Transfer], folder: Path) -> None:
    """Refuse a fetch that the disk has no room for, before its first byte."""
    needed = sum(transfer.missing_bytes() for transfer in transfers)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{needed / 1e9:,.2f} GB are to be fetched, and {folder} has {free / 1e9:,.2f} GB free.",
            hint="Free space there (`llamafarm models cache evict`), or name another folder in LLAMAFARM_CACHE.",
        )


class _Work:
    """The pieces of one file that are on their way; the worker of the last one finishes the file."""

    def __init__(self, transfer: Transfer, finished: Callable[[Fetched], None]) -> None:
        self._transfer = transfer
        self._finished = finished
        self._left = 1
        self._lock = threading.Lock()

    def spawn(self, numbers: Sequence[int], crew: _Crew) -> None:
        with self._lock:
            self._left += len(numbers)
        crew.add([partial(self._piece, number) for number in numbers])

    def done(self) -> None:
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._transfer.finish()
            self._finished(_fetched(self._transfer))  # before it has its name, so that a kill between loses nothing
            self._transfer.keep()

    def _piece(self, number: int) -> None:
        self._transfer.piece(number)
        self.done()


class _Crew:
    """Threads that work through tasks, which may add others; the first failure ends them all."""

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._size = size
        self._stop = stop
        self._tasks: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._active = 0
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []

    @property
    def has_ended(self) -> bool:
        """True if no thread works any more."""
        return not any(thread.is_alive() for thread in self._threads)

    def add(self, tasks: Sequence[Callable[[], None]]) -> None:
        with self._changed:
            self._tasks.extend(tasks)
            self._changed.notify_all()

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Work through tasks and those that they add.

        Raises:
            BaseException: the error of the first one that failed.
        """
        self._tasks.extend(tasks)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._size)]
        for thread in self._threads:
            thread.start()
        try:
            for thread in self._threads:
                thread.join()
        except BaseException:  # Ctrl-C
            self._stop.set()
            for thread in self._threads:
                thread.join(_LEAVE_S)
            raise
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except BaseException as error:  # noqa: BLE001  (raised again by `run`)
                self._fail(error)
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or not self._active or self._stop.is_set())
            if self._stop.is_set() or not self._tasks:
                return None
            self._active += 1
            return self._tasks.popleft()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None and not (isinstance(error, StoppedError)):
                self._error = error
            self._stop.set()
            self._changed.notify_all()


class _Meter:
    """Bytes so far and expected, of all files together."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0
        self._total: int | None = None

    def reset(self) -> None:
        with self._lock:
            self._done, self._total = 0, None

    def expect(self, transfers: Sequence[Transfer]) -> None:
        there = (one for one in transfers if one.size_bytes is not None or not one.wanted.is_optional)
        sizes = [transfer.size_bytes for transfer in there]
        with self._lock:
            self._total = None if None in sizes else sum(size for size in sizes if size is not None)
            self._progress(self._done, self._total)

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self._done += num_bytes
            self._progress(self._done, self._total)
