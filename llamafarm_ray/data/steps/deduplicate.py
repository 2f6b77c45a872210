"""Drop exact duplicates over the whole dataset: rows that say the same, case, spacing and punctuation apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llamafarm_ray.data.steps.base import Dropped, Step

__all__ = ["Deduplicate"]


class Deduplicate(Step[Mapping[str, object], Mapping[str, object]]):
    """Keeps the first row of each ``key``. The rows must come sorted by key, so nothing has to be remembered."""

    name = "deduplicate"

    def apply(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, object] | Dropped]:
        """See :meth:`Step.apply`; a row is a mapping with ``key``, and ``messages`` for samples."""
        previous = None
        for row in rows:
            if row["key"] == previous:
                yield Dropped("duplicate", sample=" ".join(turn["content"] for turn in row.get("messages", ())))
            else:
                previous = row["key"]
                yield row
