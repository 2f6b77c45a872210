"""Training settings of a run, after every ``auto`` is decided."""

from __future__ import annotations

from llamafarm_ray.config import Training

__all__ = ["DecidedTraining"]


class DecidedTraining(Training):
    """The training loop of a run, with epochs, batch size and learning rate decided."""

    epochs: float = 3.0
    batch_size: int = 4
    learning_rate: float = 1e-4
