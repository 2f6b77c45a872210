"""The training loop. There is one, for every method, objective and strategy."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Protocol

import torch

from llamafarm_ray.errors import TrainingError
from llamafarm_ray.training.batches import Batch
from llamafarm_ray.training.checkpoints import RunState
from llamafarm_ray.training.objectives import SftObjective
from llamafarm_ray.training.result import Progress
from llamafarm_ray.training.schedule import Schedule
from llamafarm_ray.training.strategies import Strategy

__all__ = ["mean_loss", "train_steps"]

Windows = Iterator[tuple[int, list[Batch]]]
"""An epoch's number and a step's micro-batches, step by step."""


class StepHook(Protocol):
    """What happens after a step: reporting, tracking, a checkpoint."""

    def __call__(self, state: RunState, progress: Progress) -> None: ...


def train_steps(
    strategy: Strategy,
    objective: type[SftObjective],
    windows: Windows,
    *,
    schedule: Schedule,
    state: RunState,
    after_step: StepHook,
) -> None:
    """Run optimizer steps until ``windows`` ends. Every worker runs the same number.

    A step's loss is the mean over all tokens that are trained in it: over micro-batches and workers, however
    unequal their rows. So accumulating gradients, or adding workers, is exactly a larger batch.

    Args:
        strategy: holds the model.
        objective: what is minimised.
        windows: this worker's share of each step.
        schedule: the learning rate.
        state: where the run is; kept up to date.
        after_step: called after each step.

    Raises:
        TrainingError: a loss or a gradient is not finite; the message names the step.
    """
    strategy.model.train()
    device, num_workers = strategy.place.device, strategy.place.num_workers
    for epoch, batches in windows:
        started = time.perf_counter()
        learning_rate = schedule.at(state.step)
        strategy.set_learning_rate(learning_rate)
        num_tokens, num_trained = strategy.sum(
            [sum(batch.num_tokens for batch in batches), sum(batch.num_trained for batch in batches)]
        )

        loss_sum = torch.zeros((), device=device, dtype=torch.float64)
        for index, batch in enumerate(batches):
            with strategy.autocast():
                loss = objective.loss(strategy.model, batch.to(device))
            # Strategies average gradients over workers; times their number that is a sum, which num_trained divides.
            strategy.backward(loss * (num_workers / num_trained), last=index == len(batches) - 1)
            loss_sum += loss.detach()
        mean = strategy.sum([float(loss_sum)])[0] / num_trained
        _check_finite(mean, "loss", state.step + 1, learning_rate)
        grad_norm = strategy.step()
        _check_finite(grad_norm, "gradient", state.step + 1, learning_rate)

        seconds = time.perf_counter() - started
        state.step += 1
        state.num_tokens += int(num_tokens)
        state.num_trained_tokens += int(num_trained)
        state.seconds += seconds
        state.losses.append(mean)
        after_step(
            state,
            Progress(
                step=state.step,
                total_steps=schedule.num_steps,
                epoch=epoch,
                loss=mean,
                learning_rate=learning_rate,
                grad_norm=grad_norm,
                tokens_per_s=num_tokens / seconds,
                seconds=state.seconds,
            ),
        )


@torch.no_grad()
def mean_loss(strategy: Strategy, objective: type[SftObjective], windows: Windows) -> float:
    """The mean loss per trained token over all of ``windows`` and all workers, without dropout."""
    strategy.model.eval()
    loss_sum = num_trained = 0.0
    for _, batches in windows:
        for batch in batches:
            with strategy.autocast():
                loss_sum += float(objective.loss(strategy.model, batch.to(strategy.place.device)))
            num_trained += batch.num_trained
    loss_sum, num_trained = strategy.sum([loss_sum, num_trained])
    return loss_sum / num_trained


def _check_finite(value: float, what: str, step: int, learning_rate: float) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"The {what} of step {step} is {value}, at a learning rate of {learning_rate:.3g}.",
            hint="Lower fine_tuning.training.learning_rate, or warm up for longer.",
        )
