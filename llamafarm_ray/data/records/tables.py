"""Parquet and Arrow files, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from llamafarm_ray.data.records.base import Record, UnreadableFileError

__all__ = ["read_arrow", "read_parquet"]

_BATCH_ROWS = 1024


def read_parquet(path: Path) -> Iterator[Record]:
    """Yield a record a row.

    Raises:
        UnreadableFileError: it is damaged, or no Parquet.
    """
    try:
        with pq.ParquetFile(path) as file:
            yield from _rows(file.iter_batches(batch_size=_BATCH_ROWS))
    except pa.ArrowException as error:
        raise UnreadableFileError(path, f"can't be read as Parquet: {_first_line(error)}.") from error


def read_arrow(path: Path) -> Iterator[Record]:
    """Yield a record a row of an Arrow file (Feather) or of an Arrow stream, as `datasets` writes.

    Raises:
        UnreadableFileError: it is damaged, or neither.
    """
    try:
        with pa.memory_map(str(path)) as source:
            yield from _rows(_batches(source))
    except pa.ArrowException as error:
        raise UnreadableFileError(path, f"can't be read as Arrow: {_first_line(error)}.") from error


def _batches(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    try:
        file = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
        return
    for index in range(file.num_record_batches):
        yield file.get_batch(index)


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for record in batch.slice(start, _BATCH_ROWS).to_pylist():
                number += 1
                yield f"row {number}", record


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
