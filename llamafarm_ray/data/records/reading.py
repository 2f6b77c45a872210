"""One file of records, by its type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from llamafarm_ray.data.records.base import BadRecord, Record, Records, RecordsFile, UnreadableFileError
from llamafarm_ray.data.records.compression import COMPRESSIONS, DAMAGED, file_type
from llamafarm_ray.data.records.delimited import read_delimited
from llamafarm_ray.data.records.json_files import not_unicode, read_json, read_json_lines
from llamafarm_ray.data.records.tables import read_arrow, read_parquet

__all__ = ["READERS", "TABLES", "read_file", "read_records"]

READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = MappingProxyType(
    {
        ".json": read_json,
        ".jsonl": read_json_lines,
        ".ndjson": read_json_lines,
        ".csv": read_delimited,
        ".tsv": read_delimited,
        ".parquet": read_parquet,
        ".arrow": read_arrow,
        ".feather": read_arrow,
    }
)
"""The readers by file type."""

TABLES = frozenset({".parquet", ".arrow", ".feather"})
"""Types that are compressed inside of the file."""


def read_file(path: Path) -> Iterator[Record]:
    """Yield each record of a file with its place; a record that can't be read as a `BadRecord`.

    Raises:
        UnreadableFileError: it is of another type, can't be read, or is damaged.
    """
    reader = READERS.get(file_type(path))
    if reader is None or (file_type(path) in TABLES and path.suffix.lower() in COMPRESSIONS):
        raise UnreadableFileError(path, "is no file of examples.", hint=f"Such files end in {', '.join(READERS)}.")
    try:
        yield from reader(path)
    except DAMAGED as error:
        hint = "Copy or download it again."
        raise UnreadableFileError(path, f"can't be decompressed: {error}.", hint=hint) from error
    except UnicodeDecodeError as error:
        raise not_unicode(path) from error
    except OSError as error:
        raise UnreadableFileError(path, f"can't be read: {error.strerror or error}.") from error


def read_records(records: Records) -> Iterator[tuple[RecordsFile, str, object]]:
    """Yield each record of a split with its file and its place, which names the file where there are several.

    Raises:
        UnreadableFileError: a file can't be read.
    """
    for file in records.files:
        for place, record in read_file(file.path):
            shown = f"{place} of {file.path.name}" if len(records.files) > 1 else place
            if file.convert is not None and not isinstance(record, BadRecord):
                yield file, shown, file.convert(record)
            else:
                yield file, shown, record
