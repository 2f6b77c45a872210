"""Progress of a run, what its workers bring home, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from llamafarm_ray.types import ModelKind

__all__ = ["Progress", "TrainingResult", "WorkerOutcome"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One optimizer step.

    Args:
        step: steps done, counted from 1.
        total_steps: steps of the whole run.
        epoch: the epoch this step belongs to, counted from 0.
        loss: mean cross-entropy (nats) over the step's trained tokens on all workers.
        grad_norm: the gradient's L2 norm before clipping.
        tokens_per_s: tokens read on all workers, prompts included and padding not.
        seconds: since the first step began.
        memory_bytes: the most memory that the first worker has held so far: GPU memory where it has a GPU, else its
            process's resident memory.
        mfu: model FLOPs utilisation, 0 to 1: see `flops`; None where the device's peak is not known.
        alerts: alerts since the step before, a sentence each.
        metrics: the objective's further figures, each a mean over the step.
    """

    step: int
    total_steps: int
    epoch: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_s: float
    seconds: float
    memory_bytes: int | None = None
    mfu: float | None = None
    alerts: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """The end of a worker's run; all workers have the same.

    Args:
        num_tokens: tokens read by all workers.
        seconds: time spent.
        losses: of each step.
        validation_loss: of the weights that were saved; None where it was not measured, or is not finite.
        num_workers: training processes.
    """

    num_steps: int
    num_tokens: int
    num_counted: int
    seconds: float
    losses: list[float]
    validation_loss: float | None
    num_workers: int
    num_trainable_parameters: int


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished run, as ``training.json`` holds it.

    Args:
        method: the method used; never ``auto``.
        strategy: the workers' strategy; never ``auto``.
        reasons: reasons for method and strategy, where the configuration left them open.
        precision: ``fp32`` or ``bf16``.
        num_rows: rows trained on, in each epoch.
        num_dropped: rows left out before training, by reason.
        num_tokens: tokens read over all steps, prompts included and padding not.
        num_counted: number of items that the loss is the mean of: trained tokens, or pairs.
        num_trainable_parameters: parameters the optimizer changed.
        seconds: from the first step to the last.
        losses: of every step, as in `Progress.loss`.
        metrics: ``train_loss`` (of the last step) and, given validation rows, ``validation_loss``.
        lineage: origin of base model and rows, as far as the caller knows it.
    """

    method: str
    kind: ModelKind
    objective: str
    strategy: str
    reasons: list[str]
    num_workers: int
    precision: str
    num_rows: int
    num_dropped: dict[str, int]
    num_steps: int
    num_tokens: int
    num_counted: int
    num_trainable_parameters: int
    seconds: float
    losses: list[float]
    metrics: dict[str, float]
    config: dict[str, object] = field(default_factory=dict)
    lineage: dict[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {**asdict(self), "kind": str(self.kind)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what `to_dict` gave."""
        return cls(**{**values, "kind": ModelKind(values["kind"])})
