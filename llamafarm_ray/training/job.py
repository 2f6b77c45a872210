"""Everything a worker needs to know, decided once by the driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.config import MethodParameters, Training
from llamafarm_ray.training.batch_plan import BatchPlan

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
        """What becomes the output, by a rename, once it is whole."""
        return self.path / "output"

    @property
    def logs(self) -> Path:
        """What workers and libraries print, a file each."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """Where Ray Train keeps checkpoints."""
        return self.path / "checkpoints"


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A run with nothing left to choose.

    Args:
        base_model: folder of the base model.
        folder: the run's hidden folder.
        method: never ``auto``.
        parameters: the method's.
        objective: what is minimised.
        strategy: never ``auto``.
        precision: ``fp32`` or ``bf16``.
        training: the loop's settings.
        seed: of every random choice.
        plan: how the training rows make batches.
        validation_plan: how the validation rows do; None without any.
        num_steps: optimizer steps of the run.
        checkpoint_every_steps: steps between checkpoints.
        tensorboard: whether to write TensorBoard events.
    """

    base_model: Path
    folder: RunFolder
    method: str
    parameters: MethodParameters
    objective: str
    strategy: str
    precision: str
    training: Training
    seed: int
    plan: BatchPlan
    validation_plan: BatchPlan | None
    num_steps: int
    checkpoint_every_steps: int
    tensorboard: bool
