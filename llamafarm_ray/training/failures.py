"""Errors that come through Ray, without Ray's wrapping."""

from __future__ import annotations

from collections.abc import Iterator

import ray.train

from llamafarm_ray.errors import LlamaFarmError, TrainingError
from llamafarm_ray.models.foreign import first_line

__all__ = ["clean_error"]


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
