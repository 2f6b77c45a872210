"""An epoch's rows as a worker reads them: streamed from Ray Data, in an order that no number of workers changes.

Every worker reads the whole stream and keeps its share of each window: tokens are small beside gradients, workers of
one machine read them from the same memory, and so a window is the same rows on one worker or on eight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from llamafarm_ray.training.rows import Row

__all__ = ["SHUFFLE_ROWS", "read_epoch"]

SHUFFLE_ROWS = 16_384
"""Rows that are shuffled together in every epoch but the first; more memory buys a wider shuffle."""


def read_epoch(rows: object, epoch: int, skip: int, *, seed: int, buffer_rows: int = SHUFFLE_ROWS) -> Iterator[Row]:
    """Stream the rows of all workers in the order of an epoch.

    The first epoch takes them as they lie, which is random already; later ones shuffle within a buffer, whose bounds
    move by half from one epoch to the next.

    Args:
        rows: a ``ray.data.DataIterator`` or dataset with the columns of `TokenisedData`, that keeps its order.
        epoch: counted from 0.
        skip: number of rows to pass over at the epoch's start.
        seed: of the order.
    """
    for index, table in enumerate(_tables(rows, buffer_rows, first=buffer_rows // 2 if epoch % 2 else buffer_rows)):
        if skip >= table.num_rows:
            skip -= table.num_rows
            continue
        order = np.arange(table.num_rows)
        if epoch > 0:
            order = np.random.default_rng((seed, epoch, index)).permutation(table.num_rows)
        reader = _Reader(table)
        for place in order[skip:].tolist():
            yield reader.row(place)
        skip = 0


def _tables(rows: Any, size: int, *, first: int) -> Iterator[pa.Table]:
    """Yield tables of ``size`` rows; the first one of ``first`` rows, and the last one of the remaining rows."""
    held: list[pa.Table] = []
    num_held, wanted = 0, max(1, first)
    for block in rows.iter_batches(batch_size=min(size, 4096), batch_format="pyarrow", prefetch_batches=1):
        start = 0
        while start < block.num_rows:
            part = block.slice(start, wanted - num_held)
            start += part.num_rows
            held.append(part)
            num_held += part.num_rows
            if num_held == wanted:
                yield pa.concat_tables(held)
                held, num_held, wanted = [], 0, size
    if held:
        yield pa.concat_tables(held)


class _Reader:
    """Rows of a table as views of its columns, without copies."""

    def __init__(self, table: pa.Table) -> None:
        table = table.combine_chunks()
        self._columns = []
        for name in ("input_ids", "labels", "lengths"):
            column = table.column(name).chunk(0)
            self._columns.append((column.offsets.to_numpy(), column.values.to_numpy()))
        self._tags = table.column("tag").to_numpy()

    def row(self, place: int) -> Row:
        input_ids, labels, lengths = (values[offsets[place] : offsets[place + 1]] for offsets, values in self._columns)
        return Row(input_ids, labels, lengths, int(self._tags[place]))
