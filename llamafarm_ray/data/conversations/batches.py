"""Records of files and exports in batches, as they leave the process that reads them."""

from __future__ import annotations

import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from llamafarm_ray.data.conversations.conversation import Conversation
from llamafarm_ray.data.conversations.slack import is_slack_export, slack_conversations
from llamafarm_ray.data.readers.base import BrokenDocumentError, DocumentError, OversizedDocumentError
from llamafarm_ray.data.records import (
    BadRecord,
    Record,
    UnreadableFileError,
    chosen_splits,
    is_record_file,
    read_file,
    split_of_path,
)
from llamafarm_ray.data.sources.containers import DAMAGE, MAX_UNPACKED_BYTES, members_of
from llamafarm_ray.data.sources.found import file_type, plain_path
from llamafarm_ray.data.sources.reading import open_file
from llamafarm_ray.data.sources.wanted import ROWS
from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.manifest import file_digest
from llamafarm_ray.types import Digest

__all__ = ["RowBatch", "batches_of_export", "batches_of_file"]

_BATCH_RECORDS = 256
_BATCH_S = 0.2
_MAX_NESTING = 2
_MAX_DAY_BYTES = 256 * 1024 * 1024
_CHUNK_BYTES = 1 << 20
_TOO_MUCH = "its reader ran out of memory (dataset.source.file_memory_mb)."
_TOO_DEEP = BadRecord("is nested too deeply.")


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Some records of a file, in its order.

    Args:
        path: of the file, or of the file in an archive.
        digest: of the file's bytes; "" if it could not be read at all.
        error: the reason why the rest of the file can't be read; "" if it can.
        ignored: the type of a file in an archive that holds no rows.
        split: that the name of a file in an archive tells, ``train`` or ``validation``; "" for the archive's own.
    """

    path: str
    digest: str = ""
    records: tuple[Record, ...] = ()
    error: str = ""
    ignored: str = ""
    split: str = ""


def batches_of_file(path: str, location: bytes, folder: str) -> Iterator[RowBatch]:
    """Yield the records of a file, or of each file in an archive: ``logs.zip!/monday.jsonl``.

    Args:
        folder: for unpacked files.
    """
    yield from _guarded(path, _of_file(path, Path(os.fsdecode(location)), Path(folder), 0))


def batches_of_export(name: str, files: Sequence[tuple[str, bytes]]) -> Iterator[RowBatch]:
    """Yield the threads of an unpacked export of Slack as records, channel by channel.

    Args:
        files: path in the export, and path on this machine of each.
    """
    contents = {path: partial(_whole, Path(os.fsdecode(location))) for path, location in files}
    yield from _guarded(name, _of_slack(contents, name))


def _guarded(path: str, batches: Iterable[RowBatch]) -> Iterator[RowBatch]:
    """Yield batches; an error of any kind from hostile bytes ends them with its reason."""
    try:
        for batch in batches:
            yield _picklable(batch)
    except DocumentError as error:
        yield RowBatch(path, error=str(error))
    except MemoryError:
        yield RowBatch(path, error=_TOO_MUCH)
    except OSError as error:
        yield RowBatch(path, error=f"it can't be read: {error.strerror or error}.")
    # The boundary of the process: one file must not end a build of thousands.
    except Exception as error:  # noqa: BLE001
        yield RowBatch(path, error=f"it can't be read ({type(error).__name__}: {error}).")


def _picklable(batch: RowBatch) -> RowBatch:
    try:
        pickle.dumps(batch)
    except RecursionError:
        return replace(batch, records=tuple((place, _flat(record)) for place, record in batch.records))
    return batch


def _flat(record: object) -> object:
    try:
        pickle.dumps(record)
    except RecursionError:
        return _TOO_DEEP
    return record


def _of_file(path: str, file: Path, folder: Path, depth: int) -> Iterator[RowBatch]:
    if not ROWS.takes(file.name):
        yield RowBatch(path, ignored=file_type(file.name))
    elif is_record_file(file):
        yield from _records(path, file)
    elif zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            names = [one for one in archive.namelist() if not one.endswith("/")]
            if is_slack_export(names):
                days = {one: partial(_day, archive, one) for one in names}
                yield from _of_slack(days, path)
                return
        yield from _members(path, file, folder, depth)
    else:
        yield from _members(path, file, folder, depth)


def _records(path: str, file: Path) -> Iterator[RowBatch]:
    with open_file(os.fsencode(file)) as opened:
        before = _state(opened)
        digest = file_digest(file)
        batch: list[Record] = []
        started, error = time.monotonic(), ""
        try:
            for record in read_file(file):
                batch.append(record)
                if len(batch) >= _BATCH_RECORDS or time.monotonic() - started > _BATCH_S:
                    yield RowBatch(path, digest, tuple(batch))
                    batch, started = [], time.monotonic()
        except UnreadableFileError as reason:
            error = f"it {reason.reason}"
        except MemoryError:
            error = _TOO_MUCH
        except (ValueError, RecursionError, AttributeError, TypeError, KeyError, IndexError, RuntimeError) as problem:
            error = f"it can't be read ({type(problem).__name__}: {problem})."
        if not error and before != _state(opened):
            error = "it changed while it was read. Build again."
        yield RowBatch(path, digest, tuple(batch), error)


def _state(opened: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(opened.fileno())
    return status.st_size, status.st_mtime_ns


def _whole(file: Path) -> bytes:
    with open_file(os.fsencode(file)) as opened:
        return _bounded(opened)


def _day(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        return _bounded(file)


def _bounded(file: IO[bytes]) -> bytes:
    content = file.read(_MAX_DAY_BYTES + 1)
    if len(content) > _MAX_DAY_BYTES:
        raise OversizedDocumentError(f"it is more than {_MAX_DAY_BYTES >> 20} MiB.")
    return content


def _members(path: str, file: Path, folder: Path, depth: int) -> Iterator[RowBatch]:
    if depth >= _MAX_NESTING:
        raise DocumentError(f"it is an archive {depth} archives deep, which is not opened.", hint="Unpack it first.")
    left = MAX_UNPACKED_BYTES
    num_files = 0
    try:
        splits = _splits(path, file)
        with open_file(os.fsencode(file)) as opened:
            for number, member in enumerate(members_of(file.name, opened)):
                parts = PurePosixPath(member.name)
                if _is_hidden(parts):
                    continue
                num_files += 1
                if ROWS.takes(parts.name) and member.name not in splits:
                    continue  # a split that is not used
                inner = f"{path}!/{plain_path(member.name)}"
                if not ROWS.takes(parts.name):
                    yield RowBatch(inner, ignored=file_type(parts.name))
                    continue
                unpacked = folder / f"{depth}-{number}" / _plain_name(parts.name)
                try:
                    left -= _unpack(member.open, unpacked, left)
                    if left < 0:
                        raise OversizedDocumentError(f"{path} unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB.")
                    for batch in _of_file(inner, unpacked, folder, depth + 1):
                        yield replace(batch, split=batch.split or splits[member.name])
                except DocumentError as error:
                    yield RowBatch(inner, error=str(error))
                finally:
                    shutil.rmtree(unpacked.parent, ignore_errors=True)
                if left < 0:
                    return
    except DAMAGE as error:
        raise BrokenDocumentError(f"it is a damaged archive ({type(error).__name__}: {error}).") from error
    if not num_files:
        raise BrokenDocumentError("there is no file in it.")


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith((*ROWS.hidden, "__MACOSX")) for part in path.parts if part != "..")


def _splits(path: str, file: Path) -> dict[str, str]:
    """Return the split of each file of rows in an archive; a file of a split that is not used is missing."""
    names: dict[str, list[str]] = {}
    with open_file(os.fsencode(file)) as opened:
        for member in members_of(file.name, opened):
            inner = PurePosixPath(member.name)
            if not _is_hidden(inner) and ROWS.takes(inner.name):
                names.setdefault(split_of_path(inner), []).append(member.name)
    if not names:
        return {}
    try:
        chosen = chosen_splits(path, names)
    except InputError as error:
        raise DocumentError(f"it can't be used: {error.message}", hint=error.hint) from error
    return {name: "" if split == "train" else split for split, of_split in chosen.items() for name in of_split}


def _plain_name(name: str) -> str:
    """Return a short name with the endings that tell a file's type."""
    return f"member{''.join(Path(name).suffixes[-2:])}"[-100:]


def _unpack(open_member: Any, target: Path, most: int) -> int:
    """Write a file of an archive, but not much more than ``most`` bytes of it, and return their number."""
    target.parent.mkdir()
    count = 0
    with open_member() as source, target.open("wb") as file:
        while count <= most and (chunk := source.read(_CHUNK_BYTES)):
            count += file.write(chunk)
    return count


def _of_slack(files: Mapping[str, Any], name: str) -> Iterator[RowBatch]:
    skipped: list[RowBatch] = []

    def skip(path: str, reason: str) -> None:
        skipped.append(RowBatch(f"{name}/{path}", error=reason))

    for channel, threads in slack_conversations(files, name, skip=skip):
        batch: list[Record] = []
        digest = Digest.of(b"")
        for number, thread in enumerate(threads, start=1):
            digest = thread.document_digest
            batch.append((f"thread {number}", _record(thread)))
        yield RowBatch(channel, digest, tuple(batch))
        yield from skipped
        skipped.clear()
    yield from skipped


def _record(thread: Conversation) -> object:
    if thread.dropped:
        return BadRecord(f"is a {thread.dropped}.")
    return {"messages": [message.to_turn() for message in thread.messages]}
