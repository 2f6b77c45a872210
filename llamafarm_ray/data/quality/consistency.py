"""Factual consistency: an answer's words, numbers and names are in its passage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llamafarm_ray.data.quality.support import support
from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.steps.base import Dropped, Step

__all__ = ["DropUnsupported"]


class DropUnsupported(Step[Example, Example]):
    """Drops examples whose answer its passage supports less than ``threshold``. A refusal states nothing and stays.

    Args:
        threshold: least support, 0 to 1; see :func:`llamafarm_ray.data.quality.support.support`.
        refusals: answers that state nothing.
    """

    name = "check_consistency"

    def __init__(self, threshold: float, refusals: Iterable[str] = ()) -> None:
        self.threshold = threshold
        self.refusals = frozenset(refusals)

    def apply(self, rows: Iterable[Example]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`."""
        for row in rows:
            if row.answer in self.refusals or support(row.answer, row.passage, row.question) >= self.threshold:
                yield row
            else:
                yield Dropped("its passage does not support the answer", sample=f"{row.question} {row.answer}")
