"""Training objectives: tokenization of rows and the loss of a micro-batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from llamafarm_ray.models.loading import Task
from llamafarm_ray.training.batches import Batch
from llamafarm_ray.training.rows import TokenisedRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llamafarm_ray.training.strategies import Strategy

__all__ = ["Loss", "Objective"]


@dataclass(frozen=True, slots=True)
class Loss:
    """A micro-batch's share of a step.

    Args:
        total: a scalar in fp32 whose gradient is the sum over what the objective counts; the loop divides.
        value: reported value, summed likewise; ``total`` itself unless the two differ.
        sums: further figures by name, summed likewise, such as how often the chosen answer was the likelier one.
    """

    total: torch.Tensor
    value: torch.Tensor | None = None
    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def reported(self) -> torch.Tensor:
        """`value`, detached."""
        return (self.total if self.value is None else self.value).detach()


class Objective(ABC):
    """Objective of a run: the mean of a loss over all items that a step counts.

    Losses are sums, so they add up over micro-batches and workers, and the loop divides once by what all of them
    counted. Values that depend on more rows than a micro-batch holds are computed in `prepare`, before the first of
    them.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ("messages",)
    """Columns that a dataset row must have."""
    task: ClassVar[Task] = "causal-lm"
    """Kind of model to load: ``causal-lm``, or ``embedding`` for one without an output head."""
    packable: ClassVar[bool] = True
    """True if sequences may share a packed row."""
    max_length: int | None = None
    """The run's longest sequence, in tokens, where the objective makes sequences of its own; None: no bound."""
    needs_reference: ClassVar[bool] = False
    """True if the loss also needs the base model's answer; see `Strategy.reference`."""
    needs_chat_template: ClassVar[bool] = True
    """True if rows are chats, which only a template turns into text."""

    def __init__(self, settings: object = None) -> None:
        """Take the objective's own section of ``fine_tuning``, `FineTuning.objective_settings`; None: its defaults."""
        del settings

    @abstractmethod
    def tokenise(
        self, tokenizer: PreTrainedTokenizerBase, row: Mapping[str, object], max_length: int
    ) -> list[TokenisedRow]:
        """Turn a dataset row into rows for training; a long text becomes several, a row of no use one with a reason.

        Args:
            row: with `columns`.
            max_length: the longest sequence, in tokens.

        Raises:
            UserError: the chat template is missing, or can't render the row.
        """

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Return the number of items that the loss of ``batch`` sums over: trained tokens, pairs, ..."""

    def prepare(self, strategy: Strategy, batches: Sequence[Batch], total: float) -> list[Any]:
        """Return facts about the whole window that the loss of each batch needs; by default none.

        Args:
            strategy: holds the model, and the way to the other workers. All of them call this at once.
            batches: this worker's micro-batches, on its device.
            total: count of all workers in the window.

        Returns:
            For each batch what `loss` gets as ``context``.
        """
        del strategy, total
        return [None] * len(batches)

    @abstractmethod
    def loss(self, model: PreTrainedModel, batch: Batch, context: object = None) -> Loss:
        """The loss of a micro-batch, summed over what `count` counts.

        Args:
            model: to be called with keyword arguments; see `llamafarm_ray.training.compute.forward`.
            batch: on the model's device.
            context: this batch's part of what `prepare` returned.
        """

    def write_beside(self, folder: Path, *, width: int, max_length: int) -> None:
        """Write what readers of the saved model need to know of the objective; by default nothing.

        Args:
            folder: folder of weights, configuration and tokenizer.
            width: of the vectors that the model's blocks hand on.
            max_length: the longest sequence that was trained, in tokens.
        """
        del folder, width, max_length
