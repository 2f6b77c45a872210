"""The training loop. There is one, for every method, objective and strategy."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from llamafarm_ray.errors import TrainingError
from llamafarm_ray.training.batches import Batch, Window
from llamafarm_ray.training.checkpoints import RunState
from llamafarm_ray.training.objectives import Objective
from llamafarm_ray.training.result import Progress
from llamafarm_ray.training.schedule import Schedule
from llamafarm_ray.training.strategies import Strategy

__all__ = ["StepHook", "mean_loss", "seed_step", "train_steps"]

_MAX_OVERFLOWS = 50
"""fp16 steps in a row that may be left out; the loss scale is then 2^-50 of its earlier value."""


class StepHook(Protocol):
    """Hook after each step: reporting, tracking, validating, a checkpoint."""

    def __call__(self, state: RunState, progress: Progress) -> bool:
        """Returns whether the run shall end here."""


@dataclass(slots=True)
class _Sums:
    """A step's loss and further figures, summed over its micro-batches."""

    loss: torch.Tensor
    others: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, loss: torch.Tensor, others: dict[str, torch.Tensor]) -> None:
        self.loss += loss
        for name, value in others.items():
            self.others[name] = self.others.get(name, 0.0) + value.detach().double()

    def means(self, strategy: Strategy, count: float) -> tuple[float, dict[str, float]]:
        names = sorted(self.others)
        loss, *others = strategy.sum([float(self.loss), *(float(self.others[name]) for name in names)])
        return loss / count, {name: value / count for name, value in zip(names, others, strict=True)}


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed dropout for a step, so that random numbers depend on the step alone and not on what ran before it."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % 2**63)


def train_steps(
    strategy: Strategy,
    objective: Objective,
    windows: Iterator[Window],
    *,
    schedule: Schedule,
    state: RunState,
    seed: int,
    after_step: StepHook,
) -> None:
    """Run optimizer steps until ``windows`` ends. Every worker runs the same number.

    A step's loss is the mean over all that its window counts (trained tokens, pairs): over micro-batches and workers,
    however unequal their rows. So accumulating gradients, or adding workers, is exactly a larger batch.

    Args:
        windows: this worker's share of each step.
        schedule: the learning rate.
        state: position of the run; kept up to date.
        after_step: called after each step, on every worker.

    Raises:
        TrainingError: a loss or a gradient is not finite; the message names the step.
    """
    strategy.model.train()
    overflows = _Overflows()
    started = time.perf_counter()
    for window in windows:  # reading it is part of the step
        seed_step(seed, state.step, strategy.place.rank)
        learning_rate = schedule.at(state.step)
        strategy.set_learning_rate(learning_rate)
        done = _accumulate_gradients(strategy, objective, window.batches)
        if state.step == 0 and not math.isfinite(done.loss):
            raise _not_finite_at_once(done.loss, strategy)
        _check_finite(done.loss, "loss", state.step + 1, learning_rate)
        grad_norm = strategy.step()
        overflows.check(grad_norm, state.step + 1, learning_rate)
        state.num_updates += grad_norm is not None

        seconds = time.perf_counter() - started
        state.add_step(done.loss, num_tokens=done.num_tokens, num_counted=done.num_counted, seconds=seconds)
        progress = Progress(
            step=state.step,
            total_steps=schedule.num_steps,
            epoch=window.epoch,
            loss=done.loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm or 0.0,
            tokens_per_s=done.num_tokens / seconds,
            seconds=state.seconds,
            metrics=done.metrics,
        )
        if after_step(state, progress):
            return
        started = time.perf_counter()


@dataclass(slots=True)
class _Overflows:
    """Count of the fp16 steps in a row that were left out."""

    in_a_row: int = 0

    def check(self, grad_norm: float | None, step: int, learning_rate: float) -> None:
        """Refuse a gradient that is not finite, and too many steps in a row that were left out."""
        if grad_norm is not None:
            self.in_a_row = 0
            _check_finite(grad_norm, "gradient", step, learning_rate)
            return
        self.in_a_row += 1
        if self.in_a_row > _MAX_OVERFLOWS:
            raise _not_finite(math.inf, "gradient", step, learning_rate)


@dataclass(frozen=True, slots=True)
class _Accumulated:
    """Sums over a step's micro-batches and all workers: mean loss, further figures, tokens, counted items."""

    loss: float
    metrics: dict[str, float]
    num_tokens: int
    num_counted: int


def _accumulate_gradients(strategy: Strategy, objective: Objective, batches: Sequence[Batch]) -> _Accumulated:
    """Add up the gradients of a step's micro-batches."""
    place = strategy.place
    num_tokens, count = strategy.sum(
        [sum(batch.num_tokens for batch in batches), sum(objective.count(batch) for batch in batches)]
    )
    batches = [batch.to(place.device) for batch in batches]
    contexts = objective.prepare(strategy, batches, count)
    sums = _Sums(torch.zeros((), device=place.device, dtype=torch.float64))
    for index, (batch, context) in enumerate(zip(batches, contexts, strict=True)):
        with strategy.accumulating(last=index == len(batches) - 1):
            with strategy.autocast():
                loss = objective.loss(strategy.model, batch, context)
            # Strategies average gradients over workers; times their number that is a sum, which count divides.
            strategy.backward(loss.total * (place.num_workers / count))
        sums.add(loss.reported, loss.sums)
    return _Accumulated(*sums.means(strategy, count), int(num_tokens), int(count))


@torch.no_grad()
def mean_loss(strategy: Strategy, objective: Objective, windows: Iterator[Window]) -> float:
    """The mean loss over all that ``windows`` count, on all workers, without dropout."""
    was_training = strategy.model.training
    strategy.model.eval()
    loss_sum = total = 0.0
    for window in windows:
        batches: list[Batch] = [batch.to(strategy.place.device) for batch in window.batches]
        (count,) = strategy.sum([sum(objective.count(batch) for batch in batches)])
        contexts = objective.prepare(strategy, batches, count)
        strategy.model.eval()
        for batch, context in zip(batches, contexts, strict=True):
            with strategy.autocast():
                loss_sum += float(objective.loss(strategy.model, batch, context).reported)
        total += count
    strategy.model.train(was_training)
    (loss_sum,) = strategy.sum([loss_sum])
    return loss_sum / total


def _check_finite(value: float, what: str, step: int, learning_rate: float) -> None:
    if not math.isfinite(value):
        raise _not_finite(value, what, step, learning_rate)


def _not_finite_at_once(value: float, strategy: Strategy) -> TrainingError:
    """Return the error of a loss before anything was learnt: no learning rate is to blame for that."""
    parameters = strategy.model.named_parameters()
    name = next((name for name, values in parameters if not bool(torch.isfinite(values).all())), None)
    if name is not None:
        return TrainingError(
            f"The loss of step 1 is {value}, before anything was learnt: the weights {name} are not finite.",
            hint="Download or convert the base model again.",
        )
    return TrainingError(
        f"The loss of step 1 is {value}, before anything was learnt, with weights that are finite.",
        hint="Set fine_tuning.training.precision to bf16 or fp32: fp16 may be too narrow for this model.",
    )


def _not_finite(value: float, what: str, step: int, learning_rate: float) -> TrainingError:
    return TrainingError(
        f"The {what} of step {step} is {value}, at a learning rate of {learning_rate:.3g}.",
        hint="Lower fine_tuning.training.learning_rate, or warm up for longer.",
    )
