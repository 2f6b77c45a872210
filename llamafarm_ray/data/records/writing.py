"""Write records into a file of any type that is read."""

from __future__ import annotations

import abc
import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from llamafarm_ray.data.records.compression import file_type, open_to_write
from llamafarm_ray.data.records.locating import is_record_file
from llamafarm_ray.errors import InputError

__all__ = ["WRITABLE", "RecordWriter", "open_writer"]

Record = Mapping[str, object]


def open_writer(path: Path, *, type_of: Path | None = None) -> RecordWriter:
    """Open a file of records to write.

    Args:
        type_of: a path whose name says the type and compression; ``path`` by default.

    Raises:
        InputError: the type can't be written.
        StorageError: the file can't be written.
    """
    named = type_of or path
    if not is_record_file(named) or file_type(named) not in WRITABLE:
        raise InputError(f"{named.name!r} is no type that can be written.", hint=f"Use {', '.join(WRITABLE)}.")
    return WRITABLE[file_type(named)](open_to_write(path, type_of=named), file_type(named))


class RecordWriter(abc.ABC):
    """A file of records that is being written. The same records give the same bytes."""

    def __init__(self, file: IO[bytes], kind: str) -> None:
        self._file = file
        self._kind = kind

    @abc.abstractmethod
    def add(self, record: Record) -> None:
        """Write a record of plain values."""

    def close(self) -> None:
        """Write the remaining records, and close the file."""
        self._file.close()


class _JsonWriter(RecordWriter):
    _is_first = True

    def add(self, record: Record) -> None:
        self._file.write(f"{'[' if self._is_first else ','}\n  {_text(record)}".encode())
        self._is_first = False

    def close(self) -> None:
        self._file.write(b"[]\n" if self._is_first else b"\n]\n")
        super().close()


class _LinesWriter(RecordWriter):
    def add(self, record: Record) -> None:
        self._file.write(f"{_text(record)}\n".encode())


class _TableWriter(RecordWriter):
    """A table, whose columns are known when all records are."""

    def __init__(self, file: IO[bytes], kind: str) -> None:
        super().__init__(file, kind)
        self._rows: list[Record] = []

    def add(self, record: Record) -> None:
        self._rows.append(record)

    @property
    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self._rows for name in row))


class _DelimitedWriter(_TableWriter):
    """CSV or TSV; a value that is no text is written as JSON."""

    def close(self) -> None:
        text = io.TextIOWrapper(self._file, encoding="utf-8", newline="")
        writer = csv.writer(text, delimiter="\t" if self._kind == ".tsv" else ",", lineterminator="\r\n")
        writer.writerow(self._columns)
        writer.writerows([_cell(row.get(name)) for name in self._columns] for row in self._rows)
        text.close()


class _ParquetWriter(_TableWriter):
    def close(self) -> None:
        rows = [_with_text(row) for row in self._rows]
        columns = {name: _column([row.get(name) for row in rows]) for name in self._columns}
        pq.write_table(pa.table(columns), self._file)
        super().close()


def _column(values: list[object]) -> pa.Array:
    """Return values as a column; as JSON where they are of several types, as the contents of turns with images are."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else _cell(value) for value in values])


def _with_text(record: Record) -> dict[str, object]:
    """Return a record whose tools and tool calls are JSON: Arrow would give each of them the keys of all others."""
    return {
        name: _text(value)
        if name in {"tools", "tool_calls"} and value is not None
        else [_with_text(turn) if isinstance(turn, Mapping) else turn for turn in value]
        if isinstance(value, list)
        else value
        for name, value in record.items()
    }


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cell(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else _text(value)


WRITABLE: Mapping[str, type[RecordWriter]] = MappingProxyType(
    {
        ".json": _JsonWriter,
        ".jsonl": _LinesWriter,
        ".ndjson": _LinesWriter,
        ".csv": _DelimitedWriter,
        ".tsv": _DelimitedWriter,
        ".parquet": _ParquetWriter,
    }
)
"""The writers by file type."""
