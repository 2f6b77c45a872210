"""Each step's numbers as TensorBoard events."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from llamafarm_ray.training.result import Progress

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Writes scalars under ``train/`` and ``validation/``.

    Args:
        folder: where the event files go.
        first_step: the first step that will be written; what an earlier attempt wrote from there on is void.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def step(self, progress: Progress) -> None:
        """Write one step."""
        for name in ("loss", "learning_rate", "grad_norm", "tokens_per_s"):
            self._scalar(f"train/{name}", getattr(progress, name), progress.step)

    def validation(self, loss: float, step: int) -> None:
        """Write a validation loss."""
        self._scalar("validation/loss", loss, step)

    def close(self) -> None:
        """Write what is held back."""
        self._writer.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)
