"""Finished parts of a build, kept beside its output until the dataset is complete, so that a killed build resumes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from llamafarm_ray import __version__
from llamafarm_ray.errors import StorageError

__all__ = ["FinishedParts", "PartWriter", "code_digest"]


class FinishedParts:
    """Tables by the digest of everything that decides them.

    A key holds the code's digest, so a part made by another release is not found. A damaged part counts as missing.

    Args:
        output: path of the dataset. The parts lie in a hidden folder beside it.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f".{output.name}.unfinished")

    def stream(self, schema: pa.Schema, *decides: object) -> Iterator[pa.Table] | None:
        """Return the tables that were written for the same values, as they were written.

        Returns:
            None if there are none, or with other columns.
        """
        path = self._path(decides)
        try:
            with pq.ParquetFile(path) as file:
                if not file.schema_arrow.equals(schema):
                    return None
                for _ in file.iter_batches():  # damage has to show before a table is used
                    pass
        except (OSError, pa.ArrowException):
            return None
        return _tables(path)

    def load(self, *decides: object) -> pa.Table | None:
        """Return the table that was saved for the same values, None if there is none."""
        try:
            return pq.read_table(self._path(decides), partitioning=None)
        except (OSError, pa.ArrowException):
            return None

    def save(self, table: pa.Table, *decides: object) -> None:
        """Store a table, whole or not at all.

        Raises:
            StorageError: the folder can't be written.
        """
        with self.open(table.schema, *decides) as part:
            part.add(table)
            part.finish()

    def open(self, schema: pa.Schema, *decides: object) -> PartWriter:
        """Begin a part that is written in several tables.

        Raises:
            StorageError: the folder can't be written.
        """
        with _named_failure(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            return PartWriter(self._path(decides), schema)

    def clear(self) -> None:
        """Delete all parts, also those of earlier builds with this output."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)

    def _path(self, decides: tuple[object, ...]) -> Path:
        said = json.dumps([code_digest(), *decides], sort_keys=True)
        return self.folder / f"{hashlib.sha256(said.encode()).hexdigest()}.parquet"


class PartWriter(contextlib.AbstractContextManager["PartWriter"]):
    """Writes the tables of a part beside its place, and moves it there when it is finished."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        os.close(handle)
        self._written = Path(name)
        self._writer = pq.ParquetWriter(self._written, schema)

    def add(self, table: pa.Table) -> None:
        """Write a table.

        Raises:
            StorageError: the folder can't be written.
        """
        with _named_failure(self._path.parent):
            self._writer.write_table(table)

    def finish(self) -> None:
        """Move the part to its place.

        Raises:
            StorageError: the folder can't be written.
        """
        with _named_failure(self._path.parent):
            self._writer.close()
            self._written.replace(self._path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()
        self._written.unlink(missing_ok=True)


@contextlib.contextmanager
def _named_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or folder} can't be written: {error.strerror}.") from error


def _tables(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of the release and of the sources of this package, which decide a part's content."""
    state = hashlib.sha256(__version__.encode())
    for name, source in sorted(_sources(files("llamafarm_ray.data"), "")):
        state.update(name.encode())
        state.update(source.read_bytes())
    return state.hexdigest()


def _sources(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            found += _sources(entry, name)
        elif entry.name.endswith((".py", ".json", ".yaml", ".txt")):
            found.append((name, entry))
    return found
