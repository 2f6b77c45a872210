"""What the loop asks of the workers' way to share the work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed

from llamafarm_ray.config import Training
from llamafarm_ray.training.methods import Precision

__all__ = ["Place", "Strategy", "optimizer_groups", "trainable_names"]


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the workers this process is.

    Args:
        rank: its number among ``num_workers``; 0 logs and saves.
        num_workers: workers of the run.
        device: where it computes.
    """

    rank: int
    num_workers: int
    device: torch.device


class Strategy(ABC):
    """How workers share model, gradients and optimizer state.

    Args:
        place: which worker this is.
        precision: the run's number format.
        training: the configuration's ``fine_tuning.training``.
    """

    name: ClassVar[str]
    shards_weights: ClassVar[bool] = False
    """Whether a worker holds a part of the weights only, so that each forward gathers them."""

    model: Any
    """What the loop calls; set by `prepare`."""

    def __init__(self, place: Place, precision: Precision, training: Training) -> None:
        self.place = place
        self.precision = precision
        self.training = training

    def loading(self) -> AbstractContextManager[object]:
        """Around the loading of the model: a strategy that shards weights does so while they are read."""
        return nullcontext()

    @abstractmethod
    def prepare(self, model: Any) -> None:
        """Take the wrapped model, make its optimizer (AdamW), and set ``self.model``."""

    @abstractmethod
    def set_learning_rate(self, rate: float) -> None:
        """The rate of the next `step`."""

    @abstractmethod
    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradient of ``loss`` to those of the window; ``last`` ends the window.

        What `step` sees is the *mean* of the workers' gradients.
        """

    @abstractmethod
    def step(self) -> float:
        """Clip, change the parameters, forget the gradients. Returns the norm before clipping."""

    @abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """The trained parameters by name, whole, on the CPU. All workers call it; rank 0 gets them."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write this worker's part of parameters and optimizer state. All workers call it."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` of the same number of workers wrote. All workers call it."""

    def autocast(self) -> AbstractContextManager[object]:
        """The number format of a forward pass."""
        if self.precision.name == "fp32":
            return nullcontext()
        return torch.autocast(self.place.device.type, dtype=self.precision.compute_dtype)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the workers, in fp64."""
        if self.place.num_workers == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.place.device)
        torch.distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed


def trainable_names(model: Any) -> list[str]:
    """Names of the parameters that training changes."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def optimizer_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's parameter groups: matrices decay, vectors (norms, biases) don't."""
    matrices: list[Any] = []
    vectors: list[Any] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            # A parameter that ZeRO stage 3 has split is empty; ds_shape is what it was.
            shape = getattr(parameter, "ds_shape", parameter.shape)
            (matrices if len(shape) > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
