"""The report of a build: what was found, what became of it at each step, and what is in the dataset."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llamafarm_ray.data.sources import SkippedDocument

__all__ = ["BuildReport", "DocumentCounts", "Lengths", "Sample", "StepReport"]


@dataclass(frozen=True, slots=True)
class DocumentCounts:
    """The documents of the source.

    Args:
        found: those of a supported type: ``read`` and the skipped ones.
        read: those that were read.
        skipped: the others, with reasons.
        ignored: other files, counted by type.
        notes: remarks of the readers by document, as the encoding of a text that is not UTF-8.
    """

    found: int
    read: int
    skipped: list[SkippedDocument]
    ignored: dict[str, int]
    notes: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What went through a step; ``dropped`` counts rows by reason. Splitting and generating steps add rows."""

    name: str
    rows_in: int
    rows_out: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in characters."""

    min: int
    median: float
    max: int

    @classmethod
    def of(cls, num_chars: Sequence[int]) -> Lengths:
        """Of a list of lengths; zeros for an empty one."""
        if not num_chars:
            return cls(0, 0, 0)
        return cls(min(num_chars), statistics.median(num_chars), max(num_chars))


@dataclass(frozen=True, slots=True)
class Sample:
    """One example, to look at."""

    split: str
    question: str
    answer: str
    document: str


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Everything about one build, as written to ``report.json``.

    Args:
        name: the dataset's name.
        digest: digest of its rows and their split.
        output: where it was written.
        seed: the seed of the split.
        created: False if the same dataset was there already and was left as it is.
        documents: the source documents.
        steps: the steps in their order.
        num_train: rows in the training split.
        num_validation: rows in the validation split.
        held_out: "phrasings", "facts" or "nothing", see :class:`llamafarm_ray.data.split.Split`.
        question_chars: lengths of the questions.
        answer_chars: lengths of the answers.
        samples: a few examples.
        seconds: wall-clock time by stage.
    """

    name: str
    digest: str
    output: str
    seed: int
    created: bool
    documents: DocumentCounts
    steps: list[StepReport]
    num_train: int
    num_validation: int
    held_out: str
    question_chars: Lengths
    answer_chars: Lengths
    samples: list[Sample]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def num_examples(self) -> int:
        """Rows in all splits."""
        return self.num_train + self.num_validation

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)
