"""Everything a worker needs to know, decided once by the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.config import Distributed, MethodParameters
from llamafarm_ray.config.sections.base import Section
from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.decided import DecidedTraining
from llamafarm_ray.training.monitoring.observer_settings import ObserverSettings

__all__ = ["RunFolder", "TrainingJob"]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The hidden folder of a run, beside its output, on storage that driver and workers share.

    Args:
        path: removed when the run succeeds, kept when it fails.
    """

    path: Path

    @property
    def output(self) -> Path:
        """Folder that becomes the output, by a rename, once it is complete."""
        return self.path / "output"

    @property
    def replaced(self) -> Path:
        """An older output, set aside for the moment in which the new one takes its place."""
        return self.path / "replaced"

    @property
    def logs(self) -> Path:
        """Logs of workers and libraries, a file each."""
        return self.path / "logs"

    @property
    def ray(self) -> Path:
        """Ray Train's own files."""
        return self.path / "ray"

    @property
    def lock(self) -> Path:
        """Held by the process that runs the run."""
        return self.path / "lock"

    @property
    def identity(self) -> Path:
        """Says which run this is: a later one with other settings does not go on from it."""
        return self.path / "run.json"


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A run with nothing left to choose.

    Args:
        checkpoints: URI of the folder that holds ``checkpoints/``.
        fingerprint: of everything that decides what is learnt; a run goes on from checkpoints of the same one only.
        method: never ``auto``.
        objective_settings: the objective's own section of ``fine_tuning``; None where it has none.
        max_length: the longest sequence, in tokens.
        strategy: never ``auto``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        packed: True if rows are concatenated instead of padded.
        distributed: workers, and the division of the work between them.
        seed: of every random choice.
        validation_plan: batches of the validation rows; None without any.
        context_tokens: the mean over tokens of the length of the row they are in.
        fetch_base: brings the base model to a node that has no `base_model`, and returns its folder there; None: every
            node has it.
    """

    base_model: Path
    folder: RunFolder
    checkpoints: str
    fingerprint: str
    method: str
    parameters: MethodParameters
    objective: str
    objective_settings: Section | None
    max_length: int
    strategy: str
    precision: str
    packed: bool
    training: DecidedTraining
    distributed: Distributed
    seed: int
    plan: BatchPlan
    validation_plan: BatchPlan | None
    num_steps: int
    checkpoint_every_steps: int
    evaluate_every_steps: int
    context_tokens: float
    observers: ObserverSettings
    fetch_base: Callable[[], Path] | None = None
