"""Finished parts of a build, kept beside its output until the dataset is there, so that a killed build goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llamafarm_ray import __version__
from llamafarm_ray.errors import StorageError

__all__ = ["FinishedParts", "code_digest"]


class FinishedParts:
    """Tables by the digest of everything that decides them.

    A key holds the code's digest, so a part made by another release is not found. A damaged part counts as missing.

    Args:
        output: path of the dataset. The parts lie in a hidden folder beside it.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f".{output.name}.unfinished")

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
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".writing-")
            with os.fdopen(handle, "wb") as file:
                pq.write_table(table, file)
            Path(name).replace(self._path(decides))
        except OSError as error:
            raise StorageError(f"{error.filename or self.folder} can't be written: {error.strerror}.") from error

    def clear(self) -> None:
        """Delete all parts, also those of earlier builds with this output."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)

    def _path(self, decides: tuple[object, ...]) -> Path:
        said = json.dumps([code_digest(), *decides], sort_keys=True)
        return self.folder / f"{hashlib.sha256(said.encode()).hexdigest()}.parquet"


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of the release and of the sources of this package, which decide what a part holds."""
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
