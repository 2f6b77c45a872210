"""The numbers of a build: documents found, rows in and out of each step, and the content of the dataset."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llamafarm_ray.data.coverage import Coverage
from llamafarm_ray.data.quality.metrics import DatasetMetrics
from llamafarm_ray.data.sources import SkippedDocument
from llamafarm_ray.pages import round_step

__all__ = ["BuildReport", "DocumentCounts", "Generator", "Lengths", "Sample", "StepReport", "source_lines"]

_MAX_LINES = 10
_NUM_BINS = 24
_SHOWN_SHARE = 0.99


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


def source_lines(documents: DocumentCounts) -> list[str]:
    """Return what to tell about documents that were not read, at most ten of each kind, and other files by type."""
    lines = [f"skipped {skipped.path}: {skipped.reason}" for skipped in documents.skipped[:_MAX_LINES]]
    if len(documents.skipped) > _MAX_LINES:
        lines.append(f"and {len(documents.skipped) - _MAX_LINES} more: see report.json")
    noted = [f"{path}: {'; '.join(notes)}" for path, notes in list(documents.notes.items())[:_MAX_LINES]]
    if len(documents.notes) > _MAX_LINES:
        noted.append(f"and {len(documents.notes) - _MAX_LINES} more with remarks: see report.json")
    lines += noted
    if documents.ignored:
        num_ignored = sum(documents.ignored.values())
        shown = sorted(documents.ignored.items(), key=lambda item: (-item[1], item[0]))
        types = ", ".join(f"{count} {extension}" for extension, count in shown[:_MAX_LINES])
        more = ", ..." if len(shown) > _MAX_LINES else ""
        lines.append(
            f"{documents.found + num_ignored} files: {documents.read} read, {len(documents.skipped)} skipped, "
            f"{num_ignored} of other types ({types}{more})"
        )
    return lines


@dataclass(frozen=True, slots=True)
class StepReport:
    """Counts of a step; ``dropped`` counts rows by reason. Splitting and generating steps add rows.

    ``noted`` counts notes about rows that went on, and ``samples`` has up to three rows for each reason and note.
    """

    name: str
    rows_in: int
    rows_out: int
    dropped: dict[str, int]
    noted: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in characters, and their distribution.

    Args:
        bins: number of lengths in each bin, the first from 0.
        num_longer: lengths beyond the bins: the longest hundredth, where it is far from the others.
    """

    min: int
    median: float
    max: int
    bin_chars: int = 1
    bins: tuple[int, ...] = ()
    num_longer: int = 0

    @classmethod
    def of(cls, num_chars: Sequence[int]) -> Lengths:
        """Of a list of lengths; zeros for an empty one."""
        if not num_chars:
            return cls(0, 0, 0)
        ordered = sorted(num_chars)
        shown = ordered[math.ceil(_SHOWN_SHARE * len(ordered)) - 1]
        end = ordered[-1] if ordered[-1] <= 2 * shown else shown
        width = max(1, math.ceil(round_step((end + 1) / _NUM_BINS)))
        bins = [0] * (end // width + 1)
        for length in ordered:
            if length // width < len(bins):
                bins[length // width] += 1
        num_longer = len(ordered) - sum(bins)
        return cls(ordered[0], statistics.median(ordered), ordered[-1], width, tuple(bins), num_longer)


@dataclass(frozen=True, slots=True)
class Sample:
    """One example, to look at."""

    split: str
    question: str
    answer: str
    document: str


@dataclass(frozen=True, slots=True)
class Generator:
    """The engine that wrote the pairs: ``rules``, ``endpoint`` or ``base_model``, its model, and why it was taken."""

    name: str
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Everything about one build, as written to ``report.json``.

    Args:
        created: False if the same dataset was there already and was left as it is.
        steps: the steps in their order.
        held_out: "documents", "passages", "facts", "phrasings" or "nothing"; see `llamafarm_ray.data.split.Split`.
        samples: a few examples.
        seconds: wall-clock time by stage.
        generator: the engine that wrote the pairs; None for rows that were not generated.
        coverage: facts with at least one kept pair; None likewise.
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
    generator: Generator | None = None
    coverage: Coverage | None = None
    metrics: DatasetMetrics = field(default_factory=DatasetMetrics)

    @property
    def num_examples(self) -> int:
        """Rows in all splits."""
        return self.num_train + self.num_validation

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        values = asdict(self)
        if self.coverage is not None:
            values["coverage"]["share"] = round(self.coverage.share, 4)
        return values
