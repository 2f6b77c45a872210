"""Interface of strategies that divide the work between workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed

from llamafarm_ray.config import Distributed
from llamafarm_ray.training.decided import DecidedTraining
from llamafarm_ray.training.methods import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["MOMENTS", "LossScale", "ParameterState", "Place", "Strategy", "optimizer_groups", "trainable"]

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of each parameter, by torch's names."""

ParameterState = dict[str, torch.Tensor]
"""A trained parameter's ``weight`` and `MOMENTS`, each whole, in fp32 and on the CPU."""


@dataclass(frozen=True, slots=True)
class Place:
    """Place of this process among the workers.

    Args:
        rank: its number among ``num_workers``; 0 logs and saves.
    """

    rank: int
    num_workers: int
    device: torch.device


@dataclass(frozen=True, slots=True)
class LossScale:
    """State of fp16 loss scaling, the same for each library; one goes on from another's.

    Args:
        scale: factor of the losses.
        good_steps: steps in a row that did not overflow; after a number of them the scale grows.
        forgiven: number of further overflows that leave the scale as it is: DeepSpeed's hysteresis; None from torch.
    """

    scale: float
    good_steps: int = 0
    forgiven: int | None = None


class Strategy(ABC):
    """Strategy that shares model, gradients and optimizer state between workers.

    Args:
        precision: the run's number format.
        training: the configuration's ``fine_tuning.training``.
        distributed: the configuration's ``fine_tuning.distributed``.
    """

    name: ClassVar[str]
    shards_weights: ClassVar[bool] = False
    """True if a worker holds only a part of the weights, so that each forward gathers them."""

    model: Any
    """Model that the loop calls; set by `prepare`."""
    module: Any
    """The model under whatever wraps it; set by `prepare`."""

    def __init__(
        self, place: Place, precision: Precision, training: DecidedTraining, distributed: Distributed | None = None
    ) -> None:
        self.place = place
        self.distributed = distributed or Distributed()
        self.precision = precision
        self.training = training
        self._reference: PreTrainedModel | None = None

    def loading(self) -> AbstractContextManager[object]:
        """Around the loading of the model: a strategy that shards weights does so while they are read."""
        return nullcontext()

    @abstractmethod
    def prepare(self, model: PreTrainedModel) -> None:
        """Take the wrapped model, make its optimizer (AdamW), and set ``self.model``."""

    @abstractmethod
    def set_learning_rate(self, rate: float) -> None:
        """The rate of the next `step`."""

    def accumulating(self, *, last: bool) -> AbstractContextManager[object]:
        """Around forward and backward of a micro-batch; only the window's ``last`` needs to talk to other workers."""
        del last
        return nullcontext()

    @abstractmethod
    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of ``loss`` to those of the window.

        `step` sees the *mean* of the workers' gradients.
        """

    @abstractmethod
    def step(self) -> float | None:
        """Clip, change the parameters, forget the gradients.

        Returns:
            The gradient's norm before clipping; None where fp16 overflowed, and the step was left out.
        """

    @abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """The trained parameters by name, whole, on the CPU. All workers call it; rank 0 gets them."""

    @abstractmethod
    def export_state(self) -> Iterator[tuple[str, ParameterState]]:
        """Return each trained parameter with its optimizer state, in the order of `trainable`.

        Whole tensors, whatever the strategy splits: any number of workers, and any strategy, can go on from them.
        All workers iterate in step, and each gets all.
        """

    @abstractmethod
    def import_state(self, state: Mapping[str, ParameterState], num_updates: int) -> None:
        """Take what `export_state` gave. All workers call it with the same.

        Args:
            state: by the parameters' names.
            num_updates: steps that changed the parameters, which AdamW corrects its averages by.

        Raises:
            KeyError: a trained parameter is missing.
        """

    @abstractmethod
    def loss_scale(self) -> LossScale | None:
        """Return the present scale of fp16 losses; None without scaling."""

    @abstractmethod
    def set_loss_scale(self, scale: LossScale) -> None:
        """Go on with an earlier `loss_scale`; nothing where there is none."""

    @contextmanager
    def reference(self) -> Iterator[PreTrainedModel]:
        """A model to call that answers as the base model does, without dropout, while the block lasts.

        It is the trained one with its adapter switched off, or the frozen copy given to `keep_reference`.
        """
        if self._reference is not None:
            yield self._reference
            return
        self.model.eval()
        try:
            with self._adapter_off():
                yield self.model
        finally:
            self.model.train()

    def keep_reference(self, model: PreTrainedModel) -> None:
        """Hold a frozen copy of the base model, where no adapter can be switched off."""
        self._reference = model.to(self.place.device).eval().requires_grad_(requires_grad=False)

    def _adapter_off(self) -> AbstractContextManager[object]:
        off: AbstractContextManager[object] = self.module.disable_adapter()
        return off

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

    def gather(self, value: object) -> list[Any]:
        """Every worker's ``value``, in the order of their ranks, on every worker. For small plain values."""
        if self.place.num_workers == 1:
            return [value]
        values: list[object] = [None] * self.place.num_workers
        torch.distributed.all_gather_object(values, value)
        return values

    def gather_rows(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Every worker's ``rows``, of shape (R, width) with an R of its own, in the order of their ranks."""
        if self.place.num_workers == 1:
            return [rows]
        counts = [int(count) for count in self.gather(rows.shape[0])]
        padded = rows.new_zeros((max(counts), rows.shape[1]))
        padded[: rows.shape[0]] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(gathered, padded)
        return [found[:count] for found, count in zip(gathered, counts, strict=True)]


def trainable(model: PreTrainedModel) -> list[tuple[str, Any]]:
    """Names and parameters that training changes, in the model's order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def optimizer_groups(model: PreTrainedModel, weight_decay: float) -> list[dict[str, Any]]:
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
