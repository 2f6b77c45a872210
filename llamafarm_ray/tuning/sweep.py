"""Sweep: its trials, their folders, and its result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import ConflictError
from llamafarm_ray.storage.locks import try_exclusive
from llamafarm_ray.tuning.journal import Record, SweepFacts
from llamafarm_ray.tuning.population import Population
from llamafarm_ray.tuning.trial import Place

__all__ = ["Sweep", "SweepResult", "only_sweep"]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rules for running trials.

    Args:
        folder: its state: ``journal.jsonl`` and ``trials/``, on storage that all nodes share.
        concurrent: most trials at once.
        num_points: points of comparison of the longest trial; 0: trials are not compared on their way.
        reduction_factor: of so many trials one goes on after a comparison.
        keep_models: number of best trials that keep their weights.
        population: compares trials and lets new ones take the place of the worst; None: halving does.
    """

    facts: SweepFacts
    folder: Path
    concurrent: int
    num_points: int = 0
    reduction_factor: int = 3
    keep_models: int = 1
    population: Population | None = None

    def trial_folder(self, record: Record) -> Path:
        """Everything of a trial."""
        return self.folder / "trials" / record.name

    def output(self, record: Record) -> Path:
        """Return the folder of a trial's model."""
        return self.trial_folder(record) / "model"

    def place(self, record: Record, records: Mapping[int, Record]) -> Place:
        """Return a trial's place."""
        output = self.output(record).absolute()
        if self.population is None:
            return Place(output)
        parent = None if record.parent is None else self._kept(records[record.parent])
        return Place(output, self._kept(record), parent, record.begins_at)

    def _kept(self, record: Record) -> Path:
        return self.trial_folder(record).absolute() / "kept"


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Result of a sweep.

    Args:
        records: of all trials, by number.
        best: the finished trial with the best metric; None where none finished.
        ended_because: reason that no further trial began.
        seconds: over all sessions.
    """

    records: list[Record]
    best: Record | None
    ended_because: str
    seconds: float


@contextlib.contextmanager
def only_sweep(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder.

    Raises:
        ConflictError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with try_exclusive(folder / "lock") as is_ours:
        if not is_ours:
            raise ConflictError(
                f"Another sweep works in {folder}.", hint="Wait for it, end it, or choose another --output."
            )
        yield
