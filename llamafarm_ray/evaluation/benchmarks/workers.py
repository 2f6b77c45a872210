"""Workers that answer a benchmark's requests: in this process, or as Ray actors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray

from llamafarm_ray.errors import ClusterError, InfrastructureError, LlamaFarmError
from llamafarm_ray.evaluation.benchmarks.asked import AskedModel, Chunk
from llamafarm_ray.evaluation.benchmarks.backends import Answerer, load_answerer
from llamafarm_ray.evaluation.remote import gpus_of_worker, preparation, use_counter
from llamafarm_ray.evaluation.threads import use_share_of_cores
from llamafarm_ray.models.foreign import first_line

__all__ = ["LocalWorkers", "RayWorkers", "Workers"]


class Workers(Protocol):
    """Workers that have a model open."""

    def fact(self, model: AskedModel, name: str) -> str:
        """Return a text of the model's `Answerer`: ``chat_template`` or ``precision``."""

    def render(self, model: AskedModel, chat: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """Return a chat as the model's template writes it."""

    def answers(self, model: AskedModel, chunks: Sequence[Chunk]) -> Iterator[tuple[int, list[Any]]]:
        """Yield the place of each chunk and its answers, in the order in which they are ready."""


@dataclass
class LocalWorkers:
    """One worker in this process."""

    _open: dict[tuple[str, str], Answerer] = field(default_factory=dict)

    def answerer(self, model: AskedModel) -> Answerer:
        """Return the model, opened once; the adapter's base is the same one."""
        key = (model.backend, repr(sorted(model.options.items())))
        if key not in self._open:
            self._open.clear()  # the memory may hold one model only
            self._open[key] = load_answerer(model.backend, model.options)
        return self._open[key]

    def fact(self, model: AskedModel, name: str) -> str:
        """See `Workers.fact`."""
        return str(getattr(self.answerer(model), name))

    def render(self, model: AskedModel, chat: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """See `Workers.render`."""
        return self.answerer(model).render(chat, add_generation_prompt=add_generation_prompt)

    def answers(self, model: AskedModel, chunks: Sequence[Chunk]) -> Iterator[tuple[int, list[Any]]]:
        """See `Workers.answers`."""
        for number, chunk in enumerate(chunks):
            answerer = self.answerer(model)
            yield (
                number,
                answerer.answer(
                    chunk.kind, chunk.requests, with_adapter=model.with_adapter, has_template=chunk.has_template
                ),
            )


class _Worker:
    """The actor: a `LocalWorkers` whose errors come back as values, since Ray would wrap them."""

    def __init__(self, num_workers: int, prepare: Callable[[], None] | None = None) -> None:
        self._began = time.monotonic()
        use_share_of_cores(num_workers)
        self._local = LocalWorkers()
        self._prepare = prepare

    def is_ready(self) -> object:
        """Return the seconds since it began, once its machine has the models; or the error."""
        error = self._value(self._prepare) if self._prepare is not None else None
        return error or time.monotonic() - self._began

    def call(self, method: str, *arguments: object, **options: object) -> Any:
        """Call a method of `LocalWorkers`."""

        def called() -> object:
            found = getattr(self._local, method)(*arguments, **options)
            return list(found) if method == "answers" else found

        return self._value(called)

    @staticmethod
    def _value(function: Callable[[], object]) -> object:
        try:
            return function()
        except LlamaFarmError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the process boundary: the caller can't unpickle every error
            return InfrastructureError(f"The evaluation failed: {first_line(error)}")


class RayWorkers:
    """Actors on the caller's Ray, one CPU and, where there are some, one GPU each; they share their machine's cores.

    Those that the cluster has no room for yet are left waiting; the others do their work.

    Raises:
        ClusterError: Ray is not running here.
    """

    def __init__(self, number: int) -> None:
        if not ray.is_initialized():
            raise ClusterError("Ray is not running in this process.", hint="Call ray.init() first.")
        self._count = use_counter()
        self._counted = time.monotonic()
        actor = ray.remote(num_cpus=1, num_gpus=gpus_of_worker())(_Worker)
        self._actors = [actor.remote(number, preparation()) for _ in range(number)]
        self._starting = {one.is_ready.remote(): one for one in self._actors}
        self._ready: list[Any] = []

    def fact(self, model: AskedModel, name: str) -> str:
        """See `Workers.fact`."""
        return str(self._result(self._first().call.remote("fact", model, name)))

    def render(self, model: AskedModel, chat: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """See `Workers.render`."""
        options = {"add_generation_prompt": add_generation_prompt}
        return str(self._result(self._first().call.remote("render", model, chat, **options)))

    def answers(self, model: AskedModel, chunks: Sequence[Chunk]) -> Iterator[tuple[int, list[object]]]:
        """See `Workers.answers`."""
        waiting = list(enumerate(chunks))[::-1]
        idle = list(self._ready)
        running: dict[Any, tuple[int, Any]] = {}
        while waiting or running:
            while waiting and idle:
                number, chunk = waiting.pop()
                actor = idle.pop()
                running[actor.call.remote("answers", model, [chunk])] = (number, actor)
            (done,), _ = ray.wait([*running, *self._starting], num_returns=1)
            self._count_use()
            if done in self._starting:
                idle.append(self._started(done))
                continue
            number, actor = running.pop(done)
            ((_, answers),) = self._result(done)
            idle.append(actor)
            yield number, answers

    def _first(self) -> Any:
        """Return a worker that runs; wait for one if there is none."""
        if not self._ready:
            (done,), _ = ray.wait(list(self._starting), num_returns=1)
            self._started(done)
        return self._ready[0]

    def _started(self, reference: object) -> object:
        """Note that a worker runs."""
        self._count_use()
        actor = self._starting.pop(reference)
        self._count(self._result(reference))
        self._ready.append(actor)
        return actor

    def close(self) -> None:
        """End the actors."""
        self._count_use()
        for actor in self._actors:
            ray.kill(actor)

    def _count_use(self) -> None:
        """Count the time of the workers that run since it was last counted."""
        now = time.monotonic()
        if self._ready:
            self._count((now - self._counted) * len(self._ready))
        self._counted = now

    def _result(self, reference: object) -> Any:
        try:
            found = ray.get(reference)
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines()
            raise ClusterError(
                f"A worker of the evaluation was lost: {lines[-1] if lines else type(error).__name__}",
                hint="Run it again: answers that have arrived are kept.",
            ) from error
        if isinstance(found, LlamaFarmError):
            raise found
        return found
