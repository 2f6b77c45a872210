"""Read rows from files of rows, and from exports and logs of other tools."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from llamafarm_ray.data.conversations.batches import RowBatch, batches_of_export, batches_of_file
from llamafarm_ray.data.conversations.files import RowFile, RowFiles, find_row_files
from llamafarm_ray.data.conversations.records import as_chat
from llamafarm_ray.data.reading import RowResult, parsed_record
from llamafarm_ray.data.records import BadRecord
from llamafarm_ray.data.records.base import Convert
from llamafarm_ray.data.sources import FileLimits, SkippedDocument
from llamafarm_ray.data.sources.databases import ROWS_NAME, is_database, open_rows
from llamafarm_ray.data.sources.guarded import LimitError, is_light, results_within
from llamafarm_ray.data.sources.remote import is_page, open_remote, page_name
from llamafarm_ray.data.training_rows import RowKind
from llamafarm_ray.types import Digest

__all__ = ["FileOutcome", "read_conversations"]


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """The end of a file, after its records.

    Args:
        skipped: a file that gave no row, with the reason; None if it gave some.
        note: the reason why the rest of a file that gave some can't be read; "" if all of it was read.
        ignored: the type of a file in an archive that holds no rows.
    """

    path: str
    skipped: SkippedDocument | None = None
    note: str = ""
    ignored: str = ""


def read_conversations(sources: Sequence[str], limits: FileLimits) -> Iterator[tuple[str, RowResult] | FileOutcome]:
    """Yield each record of the sources with its split, parsed into rows; and after those of a file, its outcome.

    Args:
        sources: exports of Slack (a folder, or the zip file), and files of tickets, logged requests, feedback or
            rows: see `find_row_files`.
        limits: for the process that reads a file; seconds until the next records of it.

    Raises:
        InputError: a source is missing or can't be listed, or has no rows.
    """
    for found in find_row_files(sources):
        for skipped in found.skipped:
            yield FileOutcome(skipped.path, skipped)
        for file_type, count in found.ignored.items():
            for _ in range(count):
                yield FileOutcome(found.name, ignored=file_type)
        yield from _rows_of(found, limits)


def _rows_of(found: RowFiles, limits: FileLimits) -> Iterator[tuple[str, RowResult] | FileOutcome]:
    parsers = {"train": _Parser(), "validation": _Parser()}
    with tempfile.TemporaryDirectory(prefix="llamafarm-rows-") as folder:
        if found.is_slack:
            yield from _of_slack(found, limits, Path(folder))
            return
        for file in found.files:
            split_of = functools.partial(_split_of, file)
            for split, batches in itertools.groupby(_batches(file, limits, Path(folder)), key=split_of):
                for result in parsers[split].results(batches, file.convert or as_chat):
                    yield result if isinstance(result, FileOutcome) else (split, result)


def _split_of(file: RowFile, batch: RowBatch) -> str:
    return "validation" if "validation" in {file.split, batch.split} else "train"


def _of_slack(found: RowFiles, limits: FileLimits, folder: Path) -> Iterator[tuple[str, RowResult] | FileOutcome]:
    files: list[tuple[str, bytes]] = []
    for number, file in enumerate(found.files):
        try:
            local = _copied(file.location, folder / str(number)) if _is_remote(file.location) else file.location
            files.append((file.path, local))
        except _UnreachableError as error:
            yield FileOutcome(file.path, SkippedDocument(f"{found.name}/{file.path}", str(error)))
    is_here = all(is_light(location) for _, location in files)
    batches = _within(limits, batches_of_export, (found.name, files), is_here=is_here)
    for result in _Parser().results(batches, as_chat):
        yield result if isinstance(result, FileOutcome) else ("train", result)


def _batches(file: RowFile, limits: FileLimits, folder: Path) -> Iterator[RowBatch]:
    """Yield the batches of a file, which a process beside this one reads unless it is small text."""
    location = file.location
    try:
        if _is_remote(location):
            location = _copied(location, folder / "copy")
    except _UnreachableError as error:
        yield RowBatch(file.path, error=str(error))
        return
    arguments = (file.path, location, str(folder))
    yield from _within(limits, batches_of_file, arguments, is_here=is_light(location))
    shutil.rmtree(folder / "copy", ignore_errors=True)


def _within(
    limits: FileLimits,
    work: Callable[..., Iterator[RowBatch]],
    arguments: tuple[str, *tuple[object, ...]],
    *,
    is_here: bool,
) -> Iterator[RowBatch]:
    """Yield the batches of a file or an export, whose name is the first of the arguments."""
    if is_here:
        yield from work(*arguments)
        return
    last = RowBatch(arguments[0])
    try:
        for batch in results_within(work, arguments, limits):
            last = batch
            yield batch
    except LimitError as error:
        yield RowBatch(last.path, last.digest, error=str(error))


class _UnreachableError(Exception):
    """A file that can't be copied to this machine; the text says why."""


def _is_remote(location: bytes) -> bool:
    return b"://" in location


def _copied(location: bytes, folder: Path) -> bytes:
    """Copy the file at a URI to this machine, and return its path."""
    uri = os.fsdecode(location)
    name = ROWS_NAME if is_database(uri) else page_name(uri) if is_page(uri) else PurePosixPath(uri).name
    folder.mkdir(exist_ok=True)
    target = folder / f"file{''.join(PurePosixPath(name).suffixes[-2:])}"
    try:
        opened = contextlib.closing(open_rows(uri)) if is_database(uri) else open_remote(uri)
        with opened as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    # Libraries of remote file systems have errors of their own; one file must not end a build.
    except Exception as error:
        raise _UnreachableError(f"it can't be read ({type(error).__name__}: {error}).") from error
    return os.fsencode(target)


@dataclass
class _Parser:
    """Parses the records of a split, whose rows have one kind."""

    kind: RowKind | None = None
    _rows: Counter[str] = field(default_factory=Counter)
    _records: Counter[str] = field(default_factory=Counter)
    _first_reason: dict[str, str] = field(default_factory=dict)

    def results(self, batches: Iterator[RowBatch], convert: Convert) -> Iterator[RowResult | FileOutcome]:
        """Yield the result of each record of a file, or of the files in an archive, and their outcomes."""
        path = ""
        for batch in batches:
            if path and batch.path != path:
                yield self._outcome(path, "")
            path = batch.path
            if batch.ignored:
                yield FileOutcome(path, ignored=batch.ignored)
                path = ""
                continue
            for place, record in batch.records:
                yield self._result(place, record, batch, convert)
            if batch.error:
                yield self._outcome(path, batch.error)
                path = ""
        if path:
            yield self._outcome(path, "")

    def _result(self, place: str, record: object, batch: RowBatch, convert: Convert) -> RowResult:
        converted = record if isinstance(record, BadRecord) else convert(record)
        result = parsed_record(converted, self.kind, batch.path, Digest(batch.digest), place=place)
        self._records[batch.path] += 1
        self._rows[batch.path] += len(result.rows)
        if result.reason:
            self._first_reason.setdefault(batch.path, f"{place} {result.reason}")
        else:
            self.kind = result.kind
        return result

    def _outcome(self, path: str, error: str) -> FileOutcome:
        num_rows, num_records = self._rows.pop(path, 0), self._records.pop(path, 0)
        first_reason = self._first_reason.pop(path, "")
        if num_rows:
            note = f"its first {num_records} records are used, and no more of it: {error}" if error else ""
            return FileOutcome(path, note=note)
        if not error:
            error = f"none of its {num_records} records can be used: {first_reason}" if num_records else "it is empty."
        return FileOutcome(path, SkippedDocument(path, error))
