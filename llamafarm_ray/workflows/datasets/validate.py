"""Check a dataset row by row, as training would read it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llamafarm_ray.data.reading import RowResult, is_built, parsed_rows, read_dataset
from llamafarm_ray.data.records import find_records
from llamafarm_ray.data.unused_fields import UnusedFields, has_images

__all__ = ["BadRow", "Validation", "validate"]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that can't be trained on: its file, its place there, and the reason."""

    file: str
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of a check.

    Attributes:
        rows: good rows by split and kind, ``{"train": {"chat": 120}}``.
        bad: the first bad records.
        num_duplicates: good rows that repeat an earlier one.
        num_leaked: validation rows that are trained on too.
        unused: number of good records by file and field, of fields that training does not use.
    """

    rows: dict[str, dict[str, int]]
    num_bad: int
    bad: tuple[BadRow, ...]
    num_duplicates: int
    num_leaked: int
    unused: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Good rows of all splits."""
        return sum(sum(kinds.values()) for kinds in self.rows.values())

    def to_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "num_rows": self.num_rows}


def validate(path: Path, *, max_bad: int) -> Validation:
    """Read every record, and gather those that training would refuse.

    Args:
        max_bad: bad records to return; all are counted.

    Raises:
        InputError: a file can't be read at all.
    """
    counts: dict[str, Counter[str]] = {}
    ids: dict[str, set[str]] = {}
    bad: list[BadRow] = []
    unused = UnusedFields()
    num_bad = num_duplicates = num_leaked = 0
    for split, result in _results(path):
        counts.setdefault(split, Counter())
        own = ids.setdefault(split, set())
        if result.reason:
            num_bad += 1
            if len(bad) < max_bad:
                bad.append(BadRow(str(result.file), result.place, result.reason))
        unused.add(str(result.file), result.unused)
        for row in result.rows:
            counts[split][result.kind.name] += 1
            num_duplicates += row["id"] in own
            num_leaked += any(row["id"] in others for name, others in ids.items() if name != split)
            own.add(row["id"])
    rows = {split: dict(kinds) for split, kinds in counts.items()}
    return Validation(rows, num_bad, tuple(bad), num_duplicates, num_leaked, unused.counts())


def _unused(row: Mapping[str, object]) -> tuple[str, ...]:
    return ("images",) if has_images(row) else ()


def _results(path: Path) -> Iterator[tuple[str, RowResult]]:
    if is_built(path):
        found = read_dataset(path)
        for split, rows in found.rows.items():
            yield from ((split, RowResult(path, "", found.kind, [row], unused=_unused(row))) for row in rows)
        return
    for split, records in find_records(path).items():
        root = Path(os.path.commonpath([file.path.parent for file in records.files]))
        yield from ((split, result) for result in parsed_rows(records, root=root))
