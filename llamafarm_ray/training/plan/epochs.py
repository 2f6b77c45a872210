"""Epochs and batch size for a number of rows, where the configuration leaves them open."""

from __future__ import annotations

import math
from typing import Final, Literal

from llamafarm_ray.config import Training

__all__ = ["choose_batch_size", "choose_epochs", "with_epochs_and_batch_size"]

_EPOCHS: Final = 3
_BATCH_SIZE, _SMALL_BATCH_SIZE = 4, 2
_WITH_SMALL_BATCHES: Final = frozenset({"sft", "pretraining"})
_FEW_EXAMPLES: Final = 1600
"""Examples of all epochs for which steps are small: they are then 800 at most. A run of few large steps learns less:
a 135M model that saw 780 rows of questions answered 9 of 40 with passages after steps of four rows, and 12 after steps
of two."""


def choose_epochs(configured: Literal["auto"] | float, *, passes: int) -> float:
    """Return the epochs of a run.

    Args:
        configured: ``auto``, or the epochs.
        passes: passes over the questions that the rows are written in.
    """
    return float(math.ceil(_EPOCHS / passes)) if configured == "auto" else configured


def choose_batch_size(configured: Literal["auto"] | int, *, num_examples: float) -> int:
    """Return the rows of a worker's micro-batch.

    Args:
        configured: ``auto``, or the rows.
        num_examples: rows of all epochs.
    """
    if configured != "auto":
        return configured
    return _SMALL_BATCH_SIZE if num_examples < _FEW_EXAMPLES else _BATCH_SIZE


def with_epochs_and_batch_size(training: Training, *, objective: str, num_rows: int, passes: int) -> Training:
    """Return the settings with both decided.

    Args:
        objective: objective of the training. All but sft and pretraining keep the usual size.
        passes: passes over the questions that the rows are written in.
    """
    epochs = choose_epochs(training.epochs, passes=passes)
    num_examples = epochs * num_rows
    if training.max_steps is not None:
        num_examples = training.max_steps * training.gradient_accumulation_steps * _BATCH_SIZE
    if objective not in _WITH_SMALL_BATCHES:
        num_examples = math.inf
    batch_size = choose_batch_size(training.batch_size, num_examples=num_examples)
    return training.model_copy(update={"epochs": epochs, "batch_size": batch_size})
