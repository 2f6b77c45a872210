"""The values that readers of example files yield."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["BadRecord", "Convert", "Record", "Records", "RecordsFile"]

Record = tuple[str, object]
"""The place of a record in its file, as messages name it ("line 7"), and the record."""


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that can't be read, in place of its content.

    Args:
        reason: the end of a sentence that begins with the record's place.
    """

    reason: str


Convert = Callable[[object], object]
"""A function from a record in another tool's layout to one in a known format; a `BadRecord` where that fails."""


@dataclass(frozen=True, slots=True)
class RecordsFile:
    """A file of records, and the conversion that its records need."""

    path: Path
    convert: Convert | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one split of a dataset, in one or more files."""

    files: tuple[RecordsFile, ...]

    def read(self) -> Iterator[tuple[RecordsFile, str, object]]:
        """Yield each record with its file and its place, which names the file where there are several.

        Raises:
            InputError: a file can't be read.
        """
        from llamafarm_ray.data.records.reading import read_file  # noqa: PLC0415 - it imports this module

        for file in self.files:
            for place, record in read_file(file.path):
                shown = f"{place} of {file.path.name}" if len(self.files) > 1 else place
                bare = file.convert is None or isinstance(record, BadRecord)
                yield file, shown, record if bare or file.convert is None else file.convert(record)

    def converted(self, convert: Convert) -> Records:
        """Return the same files with a conversion of their records."""
        return Records(tuple(replace(file, convert=convert) for file in self.files))
