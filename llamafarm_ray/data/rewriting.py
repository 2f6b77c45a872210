"""Write rows that exist as a dataset of their own: another format, another file type, several datasets in one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamafarm_ray import __version__
from llamafarm_ray.data.formats import default_format, format_row
from llamafarm_ray.data.reading import DatasetRows
from llamafarm_ray.data.rows import DocumentRecord, dataset_digest, with_optional
from llamafarm_ray.data.training_rows import parse_row
from llamafarm_ray.data.writing import target_for
from llamafarm_ray.errors import InputError

__all__ = ["MergedRows", "merge_rows", "reformatted", "write_rows"]

_FORMAT_VERSION = 1
_ORIGIN = ("document", "document_digest", "passage", "provenance", "pii")


@dataclasses.dataclass(frozen=True, slots=True)
class MergedRows:
    """Several datasets in one, and the number of rows that were in several of them."""

    rows: DatasetRows
    num_duplicates: int


def reformatted(found: DatasetRows, row_format: str) -> DatasetRows:
    """Return rows of the kind that a format holds: a preference in ``kto`` is two judged answers.

    Raises:
        InputError: rows of this kind, or one of them, can't be written so.
    """
    rows: dict[str, list[dict[str, object]]] = {}
    kind = found.kind
    for split, of_split in found.rows.items():
        rows[split] = []
        for row in of_split:
            for record in format_row(row, found.kind.name, row_format):
                kind, (made,) = parse_row(record)
                rows[split].append({**made, **{name: row[name] for name in _ORIGIN if name in row}})
    if kind is found.kind:
        return found
    documents = _documents([row for of_split in rows.values() for row in of_split])
    return DatasetRows(kind, rows, kind.schema, dataset_digest(rows), documents, found.passes)


def merge_rows(parts: Sequence[DatasetRows]) -> MergedRows:
    """Put several datasets together. Of rows with one id the first one stays, with its source.

    A row that one of them holds out is held out of the merged dataset, so that no run trains on it.

    Raises:
        InputError: they hold rows of different kinds.
    """
    kinds = {part.kind.name for part in parts}
    if len(kinds) > 1:
        raise InputError(
            f"Datasets with rows of different kinds can't be merged: {', '.join(sorted(kinds))}.",
            hint="Merge datasets of one kind.",
        )
    held_out = {row["id"] for part in parts for row in part.rows.get("validation", ())}
    unique: dict[str, dict[str, object]] = {}
    total = 0
    for part in parts:
        for of_split in part.rows.values():
            total += len(of_split)
            for row in of_split:
                unique.setdefault(row["id"], row)
    rows = {"train": [row for row in unique.values() if row["id"] not in held_out]}
    if held_out:
        rows["validation"] = [row for row in unique.values() if row["id"] in held_out]
    if not rows["train"]:
        raise InputError("Nothing is left to train on: every row is held out by one of the datasets.")
    schema = with_optional(parts[0].kind.schema, unique.values())
    documents, passes = _documents(list(unique.values())), min(part.passes for part in parts)
    merged = DatasetRows(parts[0].kind, rows, schema, dataset_digest(rows), documents, passes)
    return MergedRows(merged, total - len(unique))


def write_rows(found: DatasetRows, output: Path, *, name: str, row_format: str | None, overwrite: bool) -> bool:
    """Write a dataset: a folder, or a file with its report and validation rows beside it.

    Args:
        output: destination; see `target_for`.
        row_format: of the rows; None: the one that keeps everything.
        overwrite: replace another dataset.

    Returns:
        False if the same dataset was there and stays.

    Raises:
        InputError: the rows can't be written in this format or type.
        ConflictError: the output exists with other content.
        StorageError: it can't be written.
    """
    chosen = row_format or default_format(found.kind.name)
    target = target_for(output, chosen, overwrite=overwrite, kind=found.kind.name, schema=found.schema)
    target.check()
    description = {
        "format_version": _FORMAT_VERSION,
        "name": name,
        "digest": found.digest,
        "seed": 0,
        "num_train": len(found.rows["train"]),
        "num_validation": len(found.rows.get("validation", ())),
        "passes": found.passes,
        "documents": [dataclasses.asdict(document) for document in found.documents],
        "created_with": __version__,
    }
    with target.open():
        for split, rows in found.rows.items():
            target.add(split, rows)
        target.finish(description, {key: description[key] for key in ("name", "digest", "num_train", "num_validation")})
        return target.publish()


def _documents(rows: Sequence[dict[str, Any]]) -> list[DocumentRecord]:
    counts = Counter((row["document"], row["document_digest"]) for row in rows if row["document_digest"])
    return [DocumentRecord(path, digest, count) for (path, digest), count in counts.items()]
