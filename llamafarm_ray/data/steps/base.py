"""The contract of a step, and the counts and samples that every step leaves behind."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from llamafarm_ray.data.text import text_digest

__all__ = ["Dropped", "Kept", "Ledger", "Step", "StepCounts"]

_MAX_SAMPLES = 3
_MAX_SAMPLE_CHARS = 300

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that a step drops.

    Args:
        reason: counted, so keep values out of it.
        sample: the row as a reader of the report should see it; empty for none.
    """

    reason: str
    sample: str = ""


@dataclass(frozen=True, slots=True)
class Kept(Generic[Out]):
    """A row that passes, with notes about it that are counted.

    Args:
        notes: number of times that each note applies; keep values out of them.
        sample: the row as a reader of the report should see it; empty for none.
    """

    row: Out
    notes: Mapping[str, int]
    sample: str = ""


@dataclass(slots=True)
class StepCounts:
    """Rows in and out of one step. A step that splits or generates has more rows out than in.

    Args:
        dropped: rows dropped, by reason.
        noted: notes about rows that went on.
        samples: up to three rows by reason or note, chosen by their digests: the same ones in any order of work.
    """

    rows_in: int = 0
    rows_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=dict)

    def add_sample(self, reason: str, sample: str) -> None:
        """Remember ``sample``, shortened, if it is among the three of ``reason`` with the smallest digests."""
        kept = self.samples.setdefault(reason, [])
        sample = sample if len(sample) <= _MAX_SAMPLE_CHARS else f"{sample[: _MAX_SAMPLE_CHARS - 1]}\u2026"
        if sample not in kept:
            self.samples[reason] = sorted([*kept, sample], key=lambda one: text_digest([one]))[:_MAX_SAMPLES]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, sorted; ``noted`` and ``samples`` only if there are some."""
        plain: dict[str, object] = {"rows_in": self.rows_in, "rows_out": self.rows_out}
        plain["dropped"] = dict(sorted(self.dropped.items()))
        if self.noted:
            plain["noted"] = dict(sorted(self.noted.items()))
        if self.samples:
            plain["samples"] = dict(sorted(self.samples.items()))
        return plain


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
            counts.noted.update(values.get("noted", {}))
            for reason, samples in values.get("samples", {}).items():
                for sample in samples:
                    counts.add_sample(reason, sample)

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
    def apply(self, rows: Iterable[In]) -> Iterator[Out | Dropped | Kept[Out]]:
        """Yield the rows to go on with, bare or as :class:`Kept`, and a :class:`Dropped` for each row that goes."""

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
                if result.sample:
                    counts.add_sample(result.reason, result.sample)
                continue
            counts.rows_out += 1
            if isinstance(result, Kept):
                counts.noted.update(result.notes)
                for note in result.notes if result.sample else ():
                    counts.add_sample(note, result.sample)
                yield result.row
            else:
                yield result
