"""The contract of an engine that asks a model for pairs: a picklable plan, and the writer it opens in an actor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example

__all__ = ["PairWriter", "WriterPlan", "Written"]


@dataclass(frozen=True, slots=True)
class Written:
    """The examples written for one passage.

    Args:
        examples: in the order of preference, the best first; may be empty.
        dropped: number of answers of the model that gave no example, by reason. Reasons are counted, so keep values
            out of them.
    """

    examples: tuple[Example, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


class PairWriter(Protocol):
    """A model that writes questions and answers, open in one process."""

    name: str
    """``endpoint`` or ``base_model``."""

    def write(self, passages: Sequence[Passage]) -> Iterator[Written]:
        """Yield one `Written` for each passage, in the order of ``passages``.

        The result depends on the passages and the plan only. A batch holds the same passages in every build of the
        same documents, on any cluster.
        """


class WriterPlan(Protocol):
    """Settings of a writer. It is pickled, sent to the actor, and opened there."""

    @property
    def name(self) -> str:
        """Name of the generator, ``endpoint`` or ``base_model``."""

    @property
    def num_cpus(self) -> float:
        """CPUs to reserve for the actor."""

    @property
    def num_gpus(self) -> float:
        """GPUs to reserve for the actor."""

    @property
    def passages_per_batch(self) -> int:
        """Number of passages to give to one call of `PairWriter.write`."""

    @property
    def digest(self) -> str:
        """Digest of everything that decides the pairs of a passage: model, prompt version and settings."""

    def open(self) -> PairWriter:
        """Load the model, or connect to it."""
