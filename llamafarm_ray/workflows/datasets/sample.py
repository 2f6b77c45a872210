"""A few rows of a dataset, to look at."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafarm_ray.data.formats import default_format, format_row
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.errors import InputError, did_you_mean

__all__ = ["SampledRow", "sample"]


@dataclass(frozen=True, slots=True)
class SampledRow:
    """A row, and where it is from.

    Attributes:
        split: train or validation.
        record: the row in its kind's own format.
        texts: its parts with their names, in order: roles, or columns.
    """

    id: str
    split: str
    document: str
    record: dict[str, Any]
    texts: tuple[tuple[str, str], ...]


def sample(path: Path, *, count: int, seed: int, split: str | None = None) -> list[SampledRow]:
    """Choose rows by a digest of the seed and their ids, in any order of the files.

    Args:
        count: rows, at most.
        seed: another one, other rows.
        split: train or validation only.

    Raises:
        InputError: the dataset is unusable, or has no such split.
    """
    found = read_dataset(path)
    if split is not None and split not in found.rows:
        raise InputError(f"{path} has no rows of the split {split!r}.", hint=did_you_mean(split, found.rows))
    rows = [(name, row) for name, of_split in found.rows.items() if split in {None, name} for row in of_split]
    chosen = heapq.nsmallest(count, rows, key=lambda each: text_digest([str(seed), each[1]["id"]]))
    kind = found.kind.name
    sampled = []
    for name, row in chosen:
        (record,) = format_row(row, kind, default_format(kind))
        sampled.append(SampledRow(row["id"], name, row["document"], record, _texts(record)))
    return sampled


def _texts(record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    texts = [(turn["role"], turn["content"] or str(turn.get("tool_calls", ""))) for turn in record.get("messages", ())]
    rest = ((name, value) for name, value in record.items() if name not in {"messages", "tools"})
    return (*texts, *((name, value if isinstance(value, str) else str(value)) for name, value in rest))
