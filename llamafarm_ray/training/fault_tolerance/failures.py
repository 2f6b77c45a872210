"""Errors of workers as the project's own, and errors that come through Ray without Ray's wrapping."""

from __future__ import annotations

from collections.abc import Iterator

import ray.train
import torch
import torch.distributed

from llamafarm_ray.errors import LlamaFarmError, StorageError, TrainingError
from llamafarm_ray.models.foreign import first_line
from llamafarm_ray.storage.failures import NO_SPACE

__all__ = ["clean_error", "is_lost_worker", "worker_error"]


def worker_error(error: Exception) -> LlamaFarmError:
    """Return the project's error for any error that a worker met."""
    if isinstance(error, LlamaFarmError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(
            "A worker ran out of GPU memory.",
            hint="Lower fine_tuning.training.batch_size, set gradient_checkpointing, or use method qlora.",
        )
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        where = f" at {error.filename}" if error.filename else ""
        return StorageError(f"A worker's disk is full{where}.", hint="Free some space there, or use another place.")
    return TrainingError(f"A worker failed: {first_line(error)}")


def is_lost_worker(error: Exception) -> bool:
    """Return True if ``error`` means that another worker is gone: only then does a restart help.

    If Ray Train notices it first, it takes the process group away from the others.
    """
    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(
        words in text for words in ("connection", "timed out", "process group has not been initialized")
    )


def clean_error(error: BaseException, what: str) -> LlamaFarmError:
    """The project's error inside ``error``, as it was raised; else a `TrainingError` with the innermost message.

    Args:
        error: Ray's error.
        what: name of the failure for the message: "Training failed".
    """
    innermost = error
    for cause in _causes(error):
        if type(cause).__module__.startswith("llamafarm_ray."):
            assert isinstance(cause, LlamaFarmError)  # the one error tree
            return cause
        innermost = cause
    return TrainingError(f"{what}: {first_line(innermost)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what caused it, outermost first. Ray's own fields hold what crossed a process boundary."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, ray.train.WorkerGroupError):
            waiting += [failure for _, failure in sorted(current.worker_failures.items())]
        inner = [getattr(current, "cause", None), current.__cause__, getattr(current, "controller_failure", None)]
        waiting += [cause for cause in inner if isinstance(cause, BaseException)]
