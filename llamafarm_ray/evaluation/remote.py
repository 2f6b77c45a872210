"""Work on a model as one Ray task, near a GPU if there is one, with its progress and its errors."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

import ray

from llamafarm_ray.capacity import total
from llamafarm_ray.errors import ClusterError, InfrastructureError, LlamaFarmError
from llamafarm_ray.evaluation.progress import Report
from llamafarm_ray.evaluation.threads import use_share_of_cores
from llamafarm_ray.models.foreign import first_line
from llamafarm_ray.types import DeviceUse

__all__ = [
    "before_each",
    "gpus_of_worker",
    "metered",
    "preparation",
    "run_all_on_ray",
    "run_on_ray",
    "use_counter",
]

_COUNT_S: Final = 10.0
"""Seconds between two reports of the time on a device."""

_before: ContextVar[Callable[[], None] | None] = ContextVar("_before", default=None)
_on_use: ContextVar[Callable[[DeviceUse], None] | None] = ContextVar("_on_use", default=None)


@dataclass(frozen=True, slots=True)
class _Done:
    result: Any


@dataclass(frozen=True, slots=True)
class _Used:
    """Seconds since the task began, or since it last said so."""

    seconds: float


_Item = tuple[str, float] | _Done | _Used | LlamaFarmError


@contextmanager
def before_each(prepare: Callable[[], None]) -> Iterator[None]:
    """Make the evaluation tasks and actors that the block starts call a function first, on their machine."""
    token = _before.set(prepare)
    try:
        yield
    finally:
        _before.reset(token)


def preparation() -> Callable[[], None] | None:
    """Return the function of the innermost `before_each`."""
    return _before.get()


@contextmanager
def metered(on_use: Callable[[DeviceUse], None]) -> Iterator[None]:
    """Call a function with the device use of the evaluation tasks and actors that the block starts."""
    token = _on_use.set(on_use)
    try:
        yield
    finally:
        _on_use.reset(token)


def gpus_of_worker() -> int:
    """Return the GPUs of one task or actor: one where the cluster has some; it has one CPU core too."""
    return 1 if total("GPU") >= 1 else 0


def use_counter() -> Callable[[float], None]:
    """Return what counts seconds of one task or actor for the innermost `metered`; it does nothing without one."""
    on_use, on_gpu = _on_use.get(), gpus_of_worker() > 0

    def count(seconds: float) -> None:
        if on_use is not None:
            on_use(DeviceUse(seconds, on_gpu=on_gpu))

    return count


def run_on_ray(function: str, settings: Mapping[str, object], on_progress: Report | None = None) -> Any:
    """Call a function in a Ray task and return its result; see `run_all_on_ray`."""
    return run_all_on_ray(function, [settings], on_progress)[0]


def run_all_on_ray(
    function: str, settings: Sequence[Mapping[str, object]], on_progress: Report | None = None
) -> list[Any]:
    """Call a function in several Ray tasks at the same time, and return their results in order.

    Each task uses its share of the cores of its machine.

    Args:
        function: ``module:name``, so that this process needs no torch. It takes the settings and a callback for
            progress.
        settings: the first argument of each call.
        on_progress: called in this thread with the current activity and the fraction of the whole that is done, 0 to 1.

    Raises:
        LlamaFarmError: the function raised it.
        ClusterError: Ray is not running here, or a task was lost.
    """
    if not ray.is_initialized():
        raise ClusterError("Ray is not running in this process.", hint="Call ray.init() first.")
    count = use_counter()
    task = ray.remote(num_cpus=1, num_gpus=gpus_of_worker(), num_returns="streaming", max_retries=0)(_run)
    streams = [task.remote(function, one, len(settings), preparation()) for one in settings]
    done = [0.0] * len(streams)
    results: dict[int, object] = {}
    try:
        while len(results) < len(streams):
            open_streams = [stream for number, stream in enumerate(streams) if number not in results]
            (ready,), _ = ray.wait(open_streams, num_returns=1)
            number = streams.index(ready)
            item = ray.get(next(ready))
            if isinstance(item, _Used):
                count(item.seconds)
                continue
            if isinstance(item, LlamaFarmError):
                raise item
            if isinstance(item, _Done):
                results[number] = item.result
                continue
            what, done[number] = item
            if on_progress is not None:
                on_progress(what, sum(done) / len(done))
    except StopIteration:
        raise ClusterError("The evaluation ended without a result.", hint="Run it again.") from None
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        raise ClusterError(f"The evaluation was lost: {lines[-1] if lines else type(error).__name__}") from error
    finally:
        for number, stream in enumerate(streams):
            if number not in results:
                ray.cancel(stream, force=True)
    return [results[number] for number in range(len(streams))]


def _run(
    function: str, settings: Mapping[str, object], num_workers: int, prepare: Callable[[], None] | None = None
) -> Iterator[_Item]:
    """Stream progress and use, and at last the result, or the error as a value: raised, Ray would wrap it."""
    counted = time.monotonic()
    use_share_of_cores(num_workers)
    module, _, name = function.partition(":")
    items: SimpleQueue[_Item] = SimpleQueue()

    def work() -> None:
        try:
            if prepare is not None:
                prepare()
            called = getattr(importlib.import_module(module), name)
            items.put(_Done(called(settings, lambda what, done: items.put((what, done)))))
        except LlamaFarmError as error:
            items.put(error)
        except Exception as error:  # noqa: BLE001 - the process boundary: the caller can't unpickle every error
            items.put(InfrastructureError(f"The evaluation failed: {first_line(error)}"))

    Thread(target=work, name="llamafarm-evaluate", daemon=True).start()
    while True:
        try:
            item = items.get(timeout=_COUNT_S)
        except Empty:
            item = None
        now = time.monotonic()
        is_last = item is not None and not isinstance(item, tuple)
        if is_last or now - counted >= _COUNT_S:
            yield _Used(now - counted)
            counted = now
        if item is not None:
            yield item
        if is_last:
            return
