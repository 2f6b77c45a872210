"""TensorBoard events as the worker writes them by itself; goes when the worker owns `training.observers.Observers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamafarm_ray.training.result import Progress
from llamafarm_ray.training.tracking.base import record_of

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Writes scalars under ``train/`` and ``validation/``.

    Args:
        folder: where the event files go.
        first_step: steps done; what an earlier attempt wrote beyond them is void.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - imports torch

        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)

    def step(self, progress: Progress) -> None:
        """Write one step."""
        for name, value in record_of(progress).values.items():
            self._writer.add_scalar(name, value, progress.step)

    def validation(self, loss: float, step: int) -> None:
        """Write a validation loss."""
        self._writer.add_scalar("validation/loss", loss, step)

    def close(self) -> None:
        """Write what is held back."""
        self._writer.close()
