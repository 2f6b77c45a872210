"""Interface of trackers: services outside the run that its numbers are written to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from llamafarm_ray.training.result import Progress

__all__ = ["Ending", "Outcome", "Record", "RunInfo", "Tracker", "flat", "record_of"]

Outcome = Literal["finished", "stopped", "failed", "interrupted"]
"""Outcome of a run: to its last step, early as asked, by an error, or interrupted, to be resumed."""

_FIELDS = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "memory_bytes", "mfu")


@dataclass(frozen=True, slots=True)
class Record:
    """Numbers of one step.

    Args:
        values: by name, such as ``train/loss``; all finite.
    """

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Ending:
    """A run's end.

    Args:
        facts: present facts about it, such as the number of trained weights.
    """

    outcome: Outcome
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Metadata of a run, passed to trackers at start and resume.

    Args:
        name: for people.
        run_id: the same for all attempts at one run, and for no other run.
        folder: the run's output, for trackers that write files.
        steps_done: optimizer steps that earlier attempts have done.
        facts: digests, method, strategy and the like.
    """

    name: str
    run_id: str
    folder: Path
    steps_done: int
    config: Mapping[str, object]
    facts: Mapping[str, object]


class Tracker(Protocol):
    """Writes numbers somewhere. It may fail or hang: it runs behind a `Background`."""

    def log(self, records: Sequence[Record]) -> None:
        """Write the numbers of some steps."""

    def close(self, ending: Ending) -> None:
        """Write what is held back, and how the run ended."""


def record_of(progress: Progress) -> Record:
    """A step's numbers under ``train/``; what is unknown or not finite is left out."""
    values = {name: getattr(progress, name) for name in _FIELDS} | progress.metrics
    known = {f"train/{name}": value for name, value in values.items() if value is not None and math.isfinite(value)}
    return Record(progress.step, known)


def flat(value: object, prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted keys and short texts: ``{"fine_tuning.parameters.r": "16"}``."""
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[str, str]] = (
            pair
            for key, inner in value.items()
            for pair in flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        )
        return dict(items)
    return {prefix: "" if value is None else str(value)}
