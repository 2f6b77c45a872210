"""Shared use of Ray Data: a running cluster, quiet output, and its errors as ours.

Ray is imported by the functions that use it: a small build does without, and its import takes a second or two.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llamafarm_ray.capacity import is_connected, is_on_one_machine, machines
from llamafarm_ray.data.generation import Machine
from llamafarm_ray.errors import ClusterError, LlamaFarmError

if TYPE_CHECKING:
    import ray.data

__all__ = ["largest_node", "num_workers", "quiet_ray_data", "require_cluster", "rows_of"]

_BATCH_ROWS = 1024


def require_cluster() -> None:
    """Make sure that Ray runs.

    Raises:
        ClusterError: ``ray.init`` was not called in this process.
    """
    if not is_connected():
        raise ClusterError("Ray is not running in this process.", hint="Call ray.init() first.")


def largest_node() -> Machine:
    """Return the resources that a model's actor can have: of a node with a GPU if there is one, else the most CPUs."""
    best: Mapping[str, float] = max(
        (one.resources for one in machines()),
        key=lambda node: (min(1.0, node.get("GPU", 0.0)), node.get("CPU", 0.0)),
        default={},
    )
    num_gpus = 1.0 if best.get("GPU", 0.0) >= 1.0 else 0.0
    return Machine(num_cpus=1.0 if num_gpus else max(1.0, float(int(best.get("CPU", 1.0)))), num_gpus=num_gpus)


def num_workers(num_tasks: int) -> int | None:
    """Return the number of cores, or tasks if they are fewer, if all of Ray is on this machine; else None.

    Ray may have been told of more CPUs than there are, and warns about a limit above the number of tasks.
    """
    return max(1, min(num_tasks, len(os.sched_getaffinity(0)))) if is_on_one_machine() else None


@contextlib.contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Ray Data without its own progress bars and messages, warnings and errors apart; Ray's failures as ClusterError.

    Nothing changes in a process that uses no Ray.

    Raises:
        ClusterError: Ray gave up on a task.
    """
    if not is_connected():
        yield
        return
    import ray.data
    import ray.exceptions

    context = ray.data.DataContext.get_current()
    bars, logger = context.enable_progress_bars, logging.getLogger("ray.data")
    level = logger.level
    context.enable_progress_bars = False
    # Ray warns about the bars being off, and tells about each execution: errors are enough.
    logger.setLevel(logging.ERROR)
    try:
        yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, LlamaFarmError):
            raise cause from error
        first_line = str(error).strip().split("\n", 1)[0]
        raise ClusterError(
            f"Ray gave up on the build ({type(error).__name__}: {first_line}).", hint="The logs of Ray say more."
        ) from error
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)


def rows_of(dataset: ray.data.Dataset, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Stream the rows of ``dataset`` to this process, in order, with these columns only."""
    for batch in dataset.iter_batches(batch_size=_BATCH_ROWS, batch_format="pyarrow"):
        yield from batch.select(list(columns)).to_pylist()
