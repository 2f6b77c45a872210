"""The contract of a step, and the counts that every step leaves behind."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

__all__ = ["Dropped", "Ledger", "Step", "StepCounts"]

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a step yields in place of a row that it lets fall; ``reason`` is counted, so keep values out of it."""

    reason: str


@dataclass(slots=True)
class StepCounts:
    """What went through one step. A step that splits or generates has more rows out than in."""

    rows_in: int = 0
    rows_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, reasons sorted."""
        return {"rows_in": self.rows_in, "rows_out": self.rows_out, "dropped": dict(sorted(self.dropped.items()))}


class Ledger:
    """The counts of all steps by name, in the order of their first use.

    A ledger travels with the rows it counts (as plain values, through Ray), never by a shared counter: a task that
    Ray runs twice is still counted once.
    """

    def __init__(self) -> None:
        self.steps: dict[str, StepCounts] = {}

    def counts(self, step: str) -> StepCounts:
        """The counts of ``step``, made on first use."""
        return self.steps.setdefault(step, StepCounts())

    def merge(self, plain: dict[str, Any]) -> None:
        """Add what :meth:`to_dict` of another ledger returned."""
        for step, values in plain.items():
            counts = self.counts(step)
            counts.rows_in += values["rows_in"]
            counts.rows_out += values["rows_out"]
            counts.dropped.update(values["dropped"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values by step name."""
        return {step: counts.to_dict() for step, counts in self.steps.items()}


class Step(abc.ABC, Generic[In, Out]):
    """One thing done to rows. A subclass says its ``name`` and implements :meth:`apply`; counting is done here.

    A step gets the rows of one document at a time (after deduplication: of the whole dataset), in order, and must
    not depend on anything else, so that the result is the same however the documents are spread over workers.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def apply(self, rows: Iterable[In]) -> Iterator[Out | Dropped]:
        """Yield what becomes of ``rows``: rows to go on with, and a :class:`Dropped` for each row let fall."""

    def run(self, rows: Iterable[In], ledger: Ledger) -> Iterator[Out]:
        """The rows of :meth:`apply`, counted in ``ledger`` as they pass."""
        counts = ledger.counts(self.name)

        def counted() -> Iterator[In]:
            for row in rows:
                counts.rows_in += 1
                yield row

        for result in self.apply(counted()):
            if isinstance(result, Dropped):
                counts.dropped[result.reason] += 1
            else:
                counts.rows_out += 1
                yield result
