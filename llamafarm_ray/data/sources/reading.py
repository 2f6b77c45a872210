"""Read a file of a source: its bytes, those of the files in it if it is an archive, and their text."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from llamafarm_ray.data.parsed import ParsedDocument
from llamafarm_ray.data.readers import DocumentError, reader_for
from llamafarm_ray.data.readers.base import BrokenDocumentError, EmptyDocumentError, OversizedDocumentError
from llamafarm_ray.data.readers.recognition import recognizing
from llamafarm_ray.data.sources.containers import DAMAGE, MAX_UNPACKED_BYTES, is_container, members_of
from llamafarm_ray.data.sources.databases import ROWS_NAME, is_database, open_rows
from llamafarm_ray.data.sources.found import file_type, plain_path
from llamafarm_ray.data.sources.limits import max_bytes_of
from llamafarm_ray.data.sources.remote import is_page, open_remote, page_name

__all__ = ["ReadFile", "open_file", "read_file"]

_MAX_NESTING = 2  # an archive in an archive
_TOO_MUCH = "its reader ran out of memory (dataset.source.file_memory_mb)."
_MAX_MEMBER_BYTES = 256 * 1024 * 1024  # a member is held in memory, whatever it is


@dataclass(frozen=True, slots=True)
class ReadFile:
    """The outcome of one file: a document, the reason why it is skipped, or the type that no reader takes."""

    path: str
    document: ParsedDocument | None = None
    error: str = ""
    ignored: str = ""


def read_file(path: str, location: bytes, ocr: str = "") -> Iterator[ReadFile]:
    """Yield the document in a file, or each of the documents in an archive: ``manual.zip!/install.md``.

    Args:
        path: of the file, relative to its source.
        location: its absolute path or URI.
        ocr: engine that recognizes scanned pages, see `recognizing`; "" for none.
    """
    try:
        with recognizing(ocr), open_file(location) as file:
            yield from _read(path, _name(path, location), file, 0)
    except DocumentError as error:
        yield ReadFile(path, error=str(error))
    except MemoryError:
        yield ReadFile(path, error=_TOO_MUCH)
    except OSError as error:
        yield ReadFile(path, error=f"it can't be read: {error.strerror or error}.")
    # Libraries of remote file systems have errors of their own; one file must not end a build of thousands.
    except Exception as error:  # noqa: BLE001
        yield ReadFile(path, error=f"it can't be read ({type(error).__name__}: {error}).")


def _name(path: str, location: bytes) -> str:
    uri = os.fsdecode(location)
    if is_database(uri):
        return ROWS_NAME
    return page_name(uri) if is_page(uri) else PurePosixPath(path).name


@contextlib.contextmanager
def open_file(location: bytes) -> Iterator[IO[bytes]]:
    """Open a regular file, a file at a URI, or the rows of a query.

    Args:
        location: absolute path or URI.

    Raises:
        DocumentError: it is no regular file, or a database refuses the query.
    """
    if b"://" in location:
        uri = os.fsdecode(location)
        with open_rows(uri) if is_database(uri) else open_remote(uri) as remote:
            yield remote
        return
    # A pipe that took a file's place since it was listed must not be waited for.
    descriptor = os.open(location, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError("it is no regular file.")
        yield file


def _read(path: str, name: str, file: IO[bytes], depth: int) -> Iterator[ReadFile]:
    if is_container(name):
        yield from _members(path, name, file, depth)
        return
    before = _state(file)
    data = file.read(max_bytes_of(name) + 1)  # it may have grown since it was listed
    if before != _state(file):
        raise DocumentError("it changed while it was read.", hint="Build again.")
    yield ReadFile(path, _parsed(path, name, data))


def _state(file: IO[bytes]) -> tuple[int, int] | None:
    """Return the size and the time of the last change of a local file; None for others."""
    try:
        status = os.fstat(file.fileno())
    except (OSError, AttributeError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _parsed(path: str, name: str, data: bytes) -> ParsedDocument:
    reader = reader_for(name)
    if reader is None:  # pragma: no cover  only files that have one get here
        raise DocumentError("there is no reader for its type.")
    try:
        return reader.read(data, path)
    except DocumentError:
        raise
    except MemoryError as error:
        raise OversizedDocumentError(_TOO_MUCH) from error
    # The boundary of the process: parsers meet hostile bytes here, and one document must not end a build of thousands.
    except Exception as error:
        raise BrokenDocumentError(
            f"the {reader.name} reader failed on it ({type(error).__name__}: {error})."
        ) from error


def _members(path: str, name: str, file: IO[bytes], depth: int) -> Iterator[ReadFile]:
    if depth >= _MAX_NESTING:
        raise DocumentError(f"it is an archive {depth} archives deep, which is not opened.", hint="Unpack it first.")
    num_bytes = num_files = 0
    try:
        for member in members_of(name, file):
            inner = f"{path}!/{plain_path(member.name)}"
            parts = PurePosixPath(member.name)
            if any(part.startswith(".") or part == "__MACOSX" for part in parts.parts if part != ".."):
                continue
            num_files += 1
            if reader_for(parts.name) is None and not is_container(parts.name):
                yield ReadFile(inner, ignored=file_type(parts.name))
                continue
            try:
                limit = min(max_bytes_of(parts.name), _MAX_MEMBER_BYTES, MAX_UNPACKED_BYTES - num_bytes)
                data = member.read(limit + 1)
                num_bytes += len(data)
                if num_bytes > MAX_UNPACKED_BYTES:
                    raise OversizedDocumentError(f"{path} unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB.")
                yield from _read(inner, parts.name, io.BytesIO(data), depth + 1)
            except DocumentError as error:
                yield ReadFile(inner, error=str(error))
            if num_bytes > MAX_UNPACKED_BYTES:
                return
    except DAMAGE as error:
        raise BrokenDocumentError(f"it is a damaged archive ({type(error).__name__}: {error}).") from error
    if not num_files:
        raise EmptyDocumentError("there is no file in it.")
