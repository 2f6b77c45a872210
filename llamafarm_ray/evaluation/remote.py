"""Work on a model as one Ray task, near a GPU if there is one, with its progress and its errors."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

import ray

from llamafarm_ray.errors import ClusterError, InfrastructureError, LlamaFarmError
from llamafarm_ray.models.foreign import first_line

__all__ = ["run_on_ray"]

Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class _Done:
    result: Any


_Item = tuple[str, float] | _Done | LlamaFarmError


def run_on_ray(function: str, settings: Mapping[str, Any], on_progress: Report | None = None) -> Any:
    """Call a function in a Ray task and return its result.

    Args:
        function: ``module:name``, so that this process needs no torch. It takes the settings and a callback for
            progress.
        settings: its first argument.
        on_progress: called in this thread with what is being done and how much of the whole is done, 0 to 1.

    Raises:
        LlamaFarmError: the function raised it.
        ClusterError: Ray is not running here, or the task was lost.
    """
    if not ray.is_initialized():
        raise ClusterError("Ray is not running in this process.", hint="Call ray.init() first.")
    num_gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    task = ray.remote(num_cpus=1, num_gpus=num_gpus, num_returns="streaming", max_retries=0)(_run)
    try:
        for reference in task.remote(function, settings):
            item = ray.get(reference)
            if isinstance(item, LlamaFarmError):
                raise item
            if isinstance(item, _Done):
                return item.result
            if on_progress is not None:
                on_progress(*item)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        raise ClusterError(f"The evaluation was lost: {lines[-1] if lines else type(error).__name__}") from error
    raise ClusterError("The evaluation ended without a result.", hint="Run it again.")


def _run(function: str, settings: Mapping[str, Any]) -> Iterator[_Item]:
    """Stream progress, and at last the result, or the error as a value: raised, Ray would wrap it."""
    module, _, name = function.partition(":")
    items: SimpleQueue[_Item] = SimpleQueue()

    def work() -> None:
        try:
            called = getattr(importlib.import_module(module), name)
            items.put(_Done(called(settings, lambda what, done: items.put((what, done)))))
        except LlamaFarmError as error:
            items.put(error)
        except Exception as error:  # noqa: BLE001 - the process boundary: the caller can't unpickle every error
            items.put(InfrastructureError(f"The evaluation failed: {first_line(error)}"))

    Thread(target=work, name="llamafarm-evaluate", daemon=True).start()
    while True:
        item = items.get()
        yield item
        if not isinstance(item, tuple):
            return
