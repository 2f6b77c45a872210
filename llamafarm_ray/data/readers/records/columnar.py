"""Parquet and Arrow, by pyarrow: a row is a record."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from llamafarm_ray.data.readers.base import BrokenDocumentError, Outline, OversizedDocumentError, Reader
from llamafarm_ray.data.readers.records.record import add_record

__all__ = ["MAX_UNPACKED_BYTES", "ArrowReader", "ParquetReader"]

MAX_UNPACKED_BYTES = 512 * 1024 * 1024
"""Rows that take more than this in memory are refused; the files are compressed."""

_BATCH_ROWS = 1000


class ParquetReader(Reader):
    """``.parquet`` files; a ``text`` column is the text, else a row is ``column: value; ...``."""

    name = "Parquet"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        num_bytes = 0
        try:
            for batch in self.batches(data):
                num_bytes += batch.nbytes
                if num_bytes > MAX_UNPACKED_BYTES:
                    raise OversizedDocumentError(f"its rows unpack to more than {MAX_UNPACKED_BYTES >> 20} MiB.")
                for row in batch.to_pylist():
                    add_record(row, outline)
        except (pa.ArrowException, OSError) as error:
            raise BrokenDocumentError(f"it is not a valid {self.name} file ({error}).") from error
        return ""

    def batches(self, data: bytes) -> Iterator[pa.RecordBatch]:
        """Yield the rows, some at a time."""
        yield from pq.ParquetFile(io.BytesIO(data)).iter_batches(batch_size=_BATCH_ROWS)


class ArrowReader(ParquetReader):
    """``.arrow`` and ``.feather`` files: Arrow's file format or its stream format."""

    name = "Arrow"

    def batches(self, data: bytes) -> Iterator[pa.RecordBatch]:
        """Yield the rows, some at a time."""
        if data.startswith(b"ARROW1"):
            file = pa.ipc.open_file(io.BytesIO(data))
            for index in range(file.num_record_batches):
                yield file.get_batch(index)
        else:
            yield from pa.ipc.open_stream(io.BytesIO(data))
