"""The difference between two datasets, by row and by document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llamafarm_ray.data.formats import default_format, format_row
from llamafarm_ray.data.reading import DatasetRows, read_dataset

__all__ = ["DatasetDifference", "DocumentChange", "diff"]


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """A document that is not the same in both datasets.

    Attributes:
        change: added, removed, changed (its bytes), or rows (only the examples made from it).
        rows_before: examples from it in the first dataset.
        rows_after: in the second one.
    """

    path: str
    change: str
    rows_before: int
    rows_after: int


@dataclass(frozen=True, slots=True)
class DatasetDifference:
    """The difference between two datasets.

    Attributes:
        num_removed: rows in the first one only.
        num_added: rows in the second one only.
        num_moved: rows in both that changed between training and validation.
        removed: some rows of the first one only, in their kind's own format.
        added: likewise of the second one.
        documents: those that are not the same in both.
    """

    num_common: int
    num_removed: int
    num_added: int
    num_moved: int
    removed: tuple[dict[str, object], ...]
    added: tuple[dict[str, object], ...]
    documents: tuple[DocumentChange, ...]

    @property
    def is_same(self) -> bool:
        """Return True if both hold the same rows in the same splits."""
        return not (self.num_removed or self.num_added or self.num_moved)

    def to_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def diff(before: Path, after: Path, *, limit: int) -> DatasetDifference:
    """Compare two datasets by the ids of their rows, which are digests of the content.

    Args:
        before: path of the first one.
        after: path of the second one.
        limit: rows of either side that are returned as samples.

    Raises:
        InputError: one of them is unusable.
    """
    first, second = read_dataset(before), read_dataset(after)
    old, new = _by_id(first), _by_id(second)
    removed = [row for row_id, (_, row) in old.items() if row_id not in new]
    added = [row for row_id, (_, row) in new.items() if row_id not in old]
    common = old.keys() & new.keys()
    return DatasetDifference(
        num_common=len(common),
        num_removed=len(removed),
        num_added=len(added),
        num_moved=sum(old[row_id][0] != new[row_id][0] for row_id in common),
        removed=_records(first, removed[:limit]),
        added=_records(second, added[:limit]),
        documents=tuple(_documents(first, second)),
    )


def _by_id(found: DatasetRows) -> dict[str, tuple[str, dict[str, object]]]:
    return {row["id"]: (split, row) for split, rows in found.rows.items() for row in rows}


def _records(found: DatasetRows, rows: Sequence[Mapping[str, object]]) -> tuple[dict[str, object], ...]:
    kind = found.kind.name
    return tuple(record for row in rows for record in format_row(row, kind, default_format(kind)))


def _documents(first: DatasetRows, second: DatasetRows) -> list[DocumentChange]:
    counts = [Counter(row["document"] for rows in found.rows.values() for row in rows) for found in (first, second)]
    digests = [{document.path: document.digest for document in found.documents} for found in (first, second)]
    changes = []
    for path in sorted(digests[0].keys() | digests[1].keys()):
        old, new = digests[0].get(path), digests[1].get(path)
        rows_before, rows_after = counts[0][path], counts[1][path]
        change = "added" if old is None else "removed" if new is None else "changed" if old != new else "rows"
        if change != "rows" or rows_before != rows_after:
            changes.append(DocumentChange(path, change, rows_before, rows_after))
    return changes
