"""One file on its way: its pieces are written to a part file beside the target, and listed in a sidecar."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llamafarm_ray.errors import StorageError
from llamafarm_ray.storage.downloads.answer_checks import begins_again, check_end, is_another
from llamafarm_ray.storage.downloads.digests import git_digest, piece_hasher, wrong_digest
from llamafarm_ray.storage.downloads.in_order import InOrderDigest
from llamafarm_ray.storage.downloads.remote import Answer, Patience, ReplacedError, TransientError, Wanted
from llamafarm_ray.storage.downloads.sidecar import Head, Sidecar
from llamafarm_ray.storage.downloads.web import given_up
from llamafarm_ray.storage.ranges import PIECE_BYTES as READ_BYTES
from llamafarm_ray.types import Digest

if TYPE_CHECKING:
    import xxhash

__all__ = ["PIECE_BYTES", "ChangedError", "StoppedError", "Transfer"]

PIECE_BYTES = 16 * 1024 * 1024
"""The bytes that one request asks for."""

_MARKS = 16
"""Times that a piece's progress is noted: after a kill, 8 connections fetch half a piece again together."""

Count = Callable[[int], None]
"""A function of the number of bytes that arrived; a negative one takes bytes back that have to come again."""


class ChangedError(Exception):
    """The file became another one since its sidecar was written."""

    def __init__(self, transfer: Transfer, reason: str) -> None:
        super().__init__(reason)
        self.transfer = transfer
        self.reason = reason


class StoppedError(Exception):
    """Another thread failed, or the user interrupted."""


class Transfer:
    """The transfer of one file; its methods may run in several threads.

    Args:
        target: destination; its folder exists.
        patience: limits of time and tries.
        count: told of bytes.
        note: called with notes for the user.
        stop: set when everything is to end.
    """

    def __init__(
        self,
        wanted: Wanted,
        target: Path,
        *,
        patience: Patience,
        count: Count,
        note: Callable[[str], None],
        stop: threading.Event,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self.wanted = wanted
        self.digest: Digest | None = None
        self.validator = wanted.validator
        self.size_bytes = wanted.size_bytes
        self._target = target
        self._part = target.with_name(f".{target.name}.part")
        self._sidecar_path = target.with_name(f".{target.name}.pieces")
        self._patience = patience
        self._count = count
        self._note = note
        self._stop = stop
        self._piece_bytes = piece_bytes
        self._sidecar: Sidecar | None = None
        self._descriptor = -1
        self._in_order: InOrderDigest | None = None
        self._lock = threading.Lock()

    @property
    def shown(self) -> str:
        """The file's address without secrets."""
        return self.wanted.remote.shown

    def take_up(self) -> None:
        """Take over an earlier process's pieces whose bytes have the digests of its sidecar."""
        found = Sidecar.read(self._sidecar_path)
        if found is None or not self._part.is_file():
            self.drop()
            return
        head = found.head
        if is_another(head, self.wanted):
            self._note(f"{self.shown} changed since a part of it was fetched: starting over.")
            self.drop()
            return
        self._piece_bytes = head.piece_bytes
        self.size_bytes, self.validator = head.size_bytes, head.validator
        self._open(found)
        if head.size_bytes is None:
            found.pieces.clear()
            found.begun.clear()
        for piece, digest in list(found.pieces.items()):
            begin, end = self._bounds(piece)
            if not 0 <= begin < end or self._digest_of(begin, end) != digest:
                del found.pieces[piece]
                continue
            self._count(end - begin)
        for piece, (num_bytes, digest) in list(found.begun.items()):
            begin, end = self._bounds(piece)
            if not 0 <= begin < begin + num_bytes < end or self._digest_of(begin, begin + num_bytes) != digest:
                del found.begun[piece]
                continue
            self._count(num_bytes)

    def drop(self) -> None:
        """Delete what there is of the file."""
        self.close()
        self._part.unlink(missing_ok=True)
        self._sidecar_path.unlink(missing_ok=True)
        self._sidecar, self._in_order = None, None
        self.validator, self.size_bytes = self.wanted.validator, self.wanted.size_bytes

    def close(self) -> None:
        """Close the part file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def missing_bytes(self) -> int:
        """Return how many bytes are still to be written, as far as that is known."""
        if self.size_bytes is None:
            return 0
        return self.size_bytes - self._kept_bytes()

    def _kept_bytes(self) -> int:
        """Return how many bytes an earlier try, or this one, left in the part file."""
        if self._sidecar is None:
            return 0
        whole = sum(end - begin for begin, end in map(self._bounds, self._sidecar.pieces))
        return whole + sum(num_bytes for num_bytes, _ in self._sidecar.begun.values())

    def _start_of(self, number: int) -> int:
        """Return the place that a piece goes on at."""
        begun = self._sidecar.begun.get(number, (0, "")) if self._sidecar else (0, "")
        return self._bounds(number)[0] + begun[0]

    def missing(self) -> Iterator[int]:
        """Yield the numbers of the pieces that are not there."""
        if self.size_bytes is None:
            yield 0
            return
        done = self._sidecar.pieces if self._sidecar else {}
        yield from (piece for piece in range(-(-self.size_bytes // self._piece_bytes)) if piece not in done)

    def first(self, spawn: Callable[[list[int]], None]) -> None:
        """Fetch the first missing piece; hand the others to ``spawn`` once the response's headers give the size."""
        number = next(self.missing(), None)
        if number is None:
            if self._sidecar is None:  # an empty file
                self._start()
            return
        failures = 0
        while True:
            at = self._start_of(number)
            try:
                with self.wanted.remote.read(at, self._bounds(number)[1]) as answer:
                    self._check(answer)
                    if self._sidecar is None:
                        if answer.size_bytes is not None:
                            self.size_bytes = answer.size_bytes
                        self.validator = answer.validator or self.validator
                        self._start()
                    if self._ignores_range(answer):
                        self._stream_whole(answer)
                        return
                    missing = list(self.missing())
                    spawn(missing[1:])
                    if missing:
                        self._stream(number, at, answer)
            except TransientError as error:
                failures += 1
                self._pause(error, failures)
            else:
                return

    def piece(self, number: int) -> None:
        """Fetch one piece, going on within it where a connection is cut.

        Raises:
            ChangedError: the file is another one by now.
            StorageError: it can't be had, or the disk is full.
            StoppedError: everything is to end.
        """
        self._stream(number, self._start_of(number), None)

    def finish(self) -> None:
        """Check the whole file's digest.

        Raises:
            IntegrityError: its bytes are not those that were announced.
        """
        if self._in_order is None or self.size_bytes is None:
            raise AssertionError("finished before it began")
        found = self._in_order.finish()
        self.close()
        if self.wanted.digest is not None and found != self.wanted.digest:
            self.drop()
            raise wrong_digest(self.shown, str(self.wanted.digest), str(found))
        if self.wanted.git_digest and (git := git_digest(self._part, self.size_bytes)) != self.wanted.git_digest:
            self.drop()
            raise wrong_digest(self.shown, f"git:{self.wanted.git_digest}", f"git:{git}")
        self.digest = found

    def keep(self) -> None:
        """Give the finished file its name."""
        self._part.replace(self._target)
        self._sidecar_path.unlink()

    def _stream(self, number: int, at: int, answer: Answer | None) -> None:
        """Write a piece, beginning with an answer that is there already."""
        begin, end = self._bounds(number)
        hasher = self._hasher_of(begin, at)
        marked, failures = at, 0
        while at < end:
            reached = at
            try:
                with contextlib.ExitStack() as stack:
                    if answer is None:
                        answer = stack.enter_context(self.wanted.remote.read(at, end))
                        self._check(answer)
                    if begins_again(answer, at, begin):
                        self._count(begin - at)
                        at, hasher, marked = begin, piece_hasher(), begin
                    for chunk in self._chunks(answer, end - at):
                        self._write(chunk, at)
                        hasher.update(chunk)
                        at += len(chunk)
                        if marked + self._piece_bytes // _MARKS < at < end:
                            self._mark(number, at - begin, hasher.hexdigest())
                            marked = at
                check_end(at - begin, end - begin)
            except TransientError as error:
                failures = 1 if at > reached else failures + 1
                self._pause(error, failures)
            answer = None
        self._finished(number, hasher.hexdigest())

    def _stream_whole(self, answer: Answer) -> None:
        """Write a file whose server supports no ranges, from its first byte to its last."""
        if self._sidecar is None or self._in_order is None:
            raise AssertionError("written before its sidecar")
        if kept := self._kept_bytes():
            self._note(f"{self.shown}: the server ignores ranges now, so the file is fetched from its first byte.")
            self._count(-kept)
            self.drop()
            self.size_bytes, self.validator = answer.size_bytes, answer.validator
            self._start()
        at = 0
        try:
            for chunk in self._chunks(answer, answer.size_bytes):
                self._write(chunk, at)
                at += len(chunk)
            check_end(at, answer.size_bytes or 0)
        except TransientError:
            self._count(-at)
            raise
        self.size_bytes = at
        os.ftruncate(self._descriptor, at)
        self._in_order.all_there(at)

    def _chunks(self, answer: Answer, limit: int | None) -> Iterator[bytes]:
        """Yield an answer's bytes, at most ``limit``, until a stop or while they come fast enough."""
        taken, since, counted = 0, time.monotonic(), 0
        for chunk in self._read(answer):
            if self._stop.is_set():
                raise StoppedError
            if limit is not None and taken >= limit:
                return  # more than was asked for; else the answer is read to its end, so that its connection is kept
            piece = chunk if limit is None else chunk[: limit - taken]
            taken += len(piece)
            counted += len(piece)
            yield piece
            self._count(len(piece))
            if (passed := time.monotonic() - since) >= self._patience.slow_s:
                if counted < passed * self._patience.slow_bytes_per_s:
                    raise TransientError(f"sent {counted / passed:.0f} bytes a second")
                since, counted = time.monotonic(), 0

    def _read(self, answer: Answer) -> Iterator[bytes]:
        try:
            yield from answer.chunks
        except ReplacedError:
            raise ChangedError(self, "it was replaced while it was read") from None

    def _check(self, answer: Answer) -> None:
        """Compare an answer's size and validator with those of the sidecar."""
        if self._sidecar is None:
            if self.wanted.size_bytes is not None and answer.size_bytes not in {None, self.wanted.size_bytes}:
                raise StorageError(
                    f"{self.shown} has {answer.size_bytes} bytes, and {self.wanted.size_bytes} were announced.",
                    hint="Try again; if it stays so, the source is damaged.",
                )
            if answer.is_range and answer.size_bytes is None and self.wanted.size_bytes is None:
                raise StorageError(f"{self.shown} does not tell its size.", hint="Download it by other means.")
            return
        head = self._sidecar.head
        is_announced = self.wanted.digest is not None or self.wanted.git_digest is not None  # CDNs may differ in ETags
        if not is_announced and answer.validator and head.validator and answer.validator != head.validator:
            raise ChangedError(self, f"its ETag was {head.validator} and is {answer.validator}")
        if None not in {answer.size_bytes, head.size_bytes} and answer.size_bytes != head.size_bytes:
            raise ChangedError(self, f"its size was {head.size_bytes} and is {answer.size_bytes}")

    def _ignores_range(self, answer: Answer) -> bool:
        """Return whether an answer is the whole file, though a piece of it was asked for."""
        return not answer.is_range and (self.size_bytes is None or self.size_bytes > self._piece_bytes)

    def _bounds(self, number: int) -> tuple[int, int]:
        begin = number * self._piece_bytes
        end = begin + self._piece_bytes
        return begin, end if self.size_bytes is None else min(end, self.size_bytes)

    def _start(self) -> None:
        """Write the sidecar, then make the part file."""
        head = Head(self.shown, self.validator, self.size_bytes, self.wanted.digest or "", self._piece_bytes)
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._part.unlink(missing_ok=True)
        self._open(Sidecar.create(self._sidecar_path, head))

    def _open(self, sidecar: Sidecar) -> None:
        self.close()
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if self.size_bytes is not None:
            os.ftruncate(self._descriptor, self.size_bytes)
        self._sidecar = sidecar
        self._in_order = InOrderDigest(self._descriptor, self._piece_bytes, self.size_bytes)

    def _write(self, chunk: bytes, at: int) -> None:
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._descriptor, view, at)
            view, at = view[written:], at + written

    def _finished(self, number: int, digest: str) -> None:
        if self._sidecar is None or self._in_order is None:
            raise AssertionError("finished before it began")
        with self._lock:
            self._sidecar.add(number, digest)
            done = dict.fromkeys(self._sidecar.pieces)
        self._in_order.advance(done)

    def _mark(self, number: int, num_bytes: int, digest: str) -> None:
        if self._sidecar is None:
            raise AssertionError("under way before it began")
        with self._lock:
            self._sidecar.mark(number, num_bytes, digest)

    def _pause(self, error: TransientError, failures: int) -> None:
        if failures >= self._patience.attempts:
            raise given_up(self.shown, error, failures)
        if self._stop.wait(self._patience.wait_s(failures, error.wait_s)):
            raise StoppedError

    def _digest_of(self, begin: int, end: int) -> str:
        return self._hasher_of(begin, end).hexdigest()

    def _hasher_of(self, begin: int, end: int) -> xxhash.xxh3_128:
        hasher = piece_hasher()
        while begin < end and (data := os.pread(self._descriptor, min(READ_BYTES, end - begin), begin)):
            hasher.update(data)
            begin += len(data)
        return hasher
