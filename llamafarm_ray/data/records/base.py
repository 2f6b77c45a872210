"""The values that readers of example files yield."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llamafarm_ray.errors import InputError

__all__ = ["BadRecord", "Convert", "Record", "Records", "RecordsFile", "UnreadableFileError"]

Record = tuple[str, object]
"""The place of a record in its file, as messages name it ("line 7"), and the record."""


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that can't be read, in place of its content.

    Args:
        reason: the end of a sentence that begins with the record's place.
    """

    reason: str


class UnreadableFileError(InputError):
    """A whole file that can't be read, or not to its end.

    Args:
        reason: the end of a sentence that begins with the file.
        hint: next step.
    """

    def __init__(self, path: Path, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{path} {reason}", hint=hint)
        self.reason = f"{reason} {hint}".rstrip()


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

    def converted(self, convert: Convert) -> Records:
        """Return the same files with a conversion of their records."""
        return Records(tuple(replace(file, convert=convert) for file in self.files))
