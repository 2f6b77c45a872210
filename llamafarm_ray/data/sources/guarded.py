"""Read files in a process beside this one: it can be ended, so no file takes too long, too much memory, or a build."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import PurePosixPath
from typing import TypeVar, cast

from llamafarm_ray.data.sources.containers import is_container
from llamafarm_ray.data.sources.reading import ReadFile, read_file

__all__ = ["FileLimits", "LimitError", "is_light", "read_within", "results_within"]

T = TypeVar("T")

_MODULE = "llamafarm_ray.data.sources.reader_process"
_START_S = 120.0
_MIB = 1024 * 1024
# A small text can't take long, and a message to another process would take longer than reading it.
_LIGHT_BYTES = 32 * 1024
_UNPACKED_TYPES = frozenset(
    (
        *(".pdf", ".docx", ".pptx", ".xlsx", ".xls", ".ods", ".odt", ".rtf", ".epub"),
        *(".parquet", ".arrow", ".feather"),
    )
)
"""Types whose files say little about the work by their size."""


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Bounds of the work on one file.

    Args:
        seconds: until a document is read; in an archive, until each of its documents is.
        memory_bytes: on top of the process itself.
    """

    seconds: float
    memory_bytes: int


class LimitError(Exception):
    """The work on a file broke a limit, or ended its process; the text says why."""


def read_within(path: str, location: bytes, limits: FileLimits, ocr: str = "") -> Iterator[ReadFile]:
    """Yield what `read_file` yields; a file that breaks a limit, or its reader, ends with an error that says so.

    Args:
        path: of the file, relative to its source.
        location: its absolute path or URI.
        limits: for each document.
        ocr: see `read_file`.
    """
    if is_light(location):
        yield from read_file(path, location, ocr)
        return
    try:
        yield from results_within(read_file, (path, location, ocr), limits)
    except LimitError as error:
        yield ReadFile(path, error=str(error))


def results_within(work: Callable[..., Iterator[T]], arguments: tuple[object, ...], limits: FileLimits) -> Iterator[T]:
    """Yield what a function yields in a process beside this one.

    Args:
        work: a function of a module; what it yields can be pickled.
        arguments: for it.
        limits: ``seconds`` until each result.

    Raises:
        LimitError: a limit was broken, or the process ended.
    """
    reader = _reader(limits)
    if not reader.ask(work, arguments):
        raise LimitError("the process that reads files could not be started.")
    is_complete = False
    try:
        while True:
            try:
                if not reader.connection.poll(limits.seconds):
                    raise LimitError(f"it was not read within {limits.seconds:g} s (dataset.source.file_timeout_s).")
                result = reader.connection.recv()
            except (EOFError, OSError):
                raise LimitError(_death(reader.end(), limits)) from None
            if result is None:
                is_complete = True
                return
            yield cast("T", result)
    finally:
        if not is_complete:  # what is left of its results must not be taken for the next file's
            reader.end()


def is_light(location: bytes) -> bool:
    """Return True for a small local file of text."""
    name = PurePosixPath(os.fsdecode(location)).name.lower()
    if b"://" in location or is_container(name) or PurePosixPath(name).suffix in _UNPACKED_TYPES:
        return False
    with contextlib.suppress(OSError, ValueError):
        return os.stat(location).st_size <= _LIGHT_BYTES  # noqa: PTH116  a path in bytes
    return False


def _death(status: int, limits: FileLimits) -> str:
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return (
        f"the process that read it ended ({how}); it may need more than the {limits.memory_bytes // _MIB} MiB of "
        "dataset.source.file_memory_mb."
    )


class _Reader:
    """A process that reads one file after another."""

    def __init__(self, limits: FileLimits) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self.connection: Connection

    def ask(self, work: Callable[..., object], arguments: tuple[object, ...]) -> bool:
        """Send work to the process, to a new one if there is none; return False if none can be started."""
        for _ in range(2):
            if self._process is None or self._process.poll() is not None:
                self.end()
                self._start()
            with contextlib.suppress(OSError, EOFError):
                self.connection.send((work, arguments))
                return True
        return False

    def _start(self) -> None:
        self.connection, theirs = Pipe()
        limits = (str(self.limits.seconds), str(self.limits.memory_bytes))
        with theirs:
            self._process = subprocess.Popen(  # our own module
                [sys.executable, "-m", _MODULE, str(theirs.fileno()), *limits],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        with contextlib.suppress(OSError, EOFError):
            if self.connection.poll(_START_S):
                self.connection.recv()  # it is there, and the time of its start is no file's

    def end(self) -> int:
        """End the process, and return its exit status; 0 if there is none."""
        if self._process is None:
            return 0
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.2)  # one that ends by itself says how
        if self._process.returncode is None:
            self._process.kill()
        status = self._process.wait()
        self._process = None
        return status


_readers: dict[int, _Reader] = {}
"""The reader of this process, by its id: a forked process must not use its parent's."""


def _reader(limits: FileLimits) -> _Reader:
    reader = _readers.get(os.getpid())
    if reader is not None and reader.limits != limits:
        reader.end()
        reader = None
    if reader is None:
        reader = _readers[os.getpid()] = _Reader(limits)
        atexit.register(reader.end)
    return reader
