"""Ask a model in vLLM for JSON: all requests in one run of Ray Data, none twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from llamafarm_ray.data.generation.cluster.engine import EngineRequest, answers_of
from llamafarm_ray.data.generation.cluster.plan import VllmPlan
from llamafarm_ray.data.generation.cluster.prompts import prompt_ids
from llamafarm_ray.data.generation.cluster.schemas import limited_schema
from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError
from llamafarm_ray.data.generation.endpoint.asking import read_answer
from llamafarm_ray.data.generation.endpoint.cache import Answer, AnswerCache, request_key
from llamafarm_ray.data.generation.endpoint.client import RefusedError
from llamafarm_ray.errors import InputError
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.types import DeviceUse

__all__ = ["ClusterAsker", "ClusterRequest", "Engine"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Engine = Callable[[VllmPlan, Sequence[EngineRequest]], Iterator[tuple[int, Answer | RefusedError]]]


@dataclass(frozen=True, slots=True)
class ClusterRequest(Generic[T_co]):
    """A request.

    Args:
        body: see `chat_request`.
        num_items: number of examples that it asks for.
        read: reads the text of its answer, and raises BadAnswerError if it has another form.
    """

    body: dict[str, Any]
    num_items: int
    read: Callable[[str], T_co]


class ClusterAsker:
    """Asks a model in vLLM. Needs a connected Ray where an answer is not stored.

    Args:
        on_use: called with the use of devices by a run.
        engine: answers requests; by default vLLM.
    """

    def __init__(self, plan: VllmPlan, on_use: Callable[[DeviceUse], None], *, engine: Engine | None = None) -> None:
        self._plan = plan
        self._on_use = on_use
        self._engine = engine or answers_of
        self._cache = AnswerCache(plan.cache)

    def ask(self, requests: Sequence[ClusterRequest[T]]) -> Iterator[tuple[int, T | BadAnswerError | RefusedError]]:
        """Yield the index of each request with what its answer reads as: stored answers, then new ones as they come.

        Good answers are stored at once, so that a killed build asks again for those alone that were under way.

        Raises:
            InputError: the engine refuses all requests, or the model's folder can't be read.
        """
        missing: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            key = request_key(self._plan.server, request.body)
            stored = self._cache.get(key)
            if stored is None:
                missing.setdefault(key, []).append(index)
            else:
                yield index, _read(stored, request)
        if not missing:
            return
        start = time.perf_counter()
        is_whole = sum(map(len, missing.values())) == len(requests)
        for key, answer in self._new(
            {key: requests[indices[0]] for key, indices in missing.items()}, is_whole=is_whole
        ):
            for index in missing[key]:
                result = answer if isinstance(answer, RefusedError) else _read(answer, requests[index])
                if isinstance(answer, Answer) and not isinstance(result, BadAnswerError):
                    self._cache.put(key, answer)
                yield index, result
        seconds = time.perf_counter() - start
        self._on_use(DeviceUse(self._plan.num_devices * seconds, on_gpu=self._plan.num_gpus > 0))

    def _new(
        self, missing: dict[str, ClusterRequest[T]], *, is_whole: bool
    ) -> Iterator[tuple[str, Answer | RefusedError]]:
        """Yield answers to requests by key.

        Args:
            is_whole: True if nothing was answered before, so that an engine that refuses all of them is of no use.
        """
        quiet_libraries()
        tokenizer = load_tokenizer(self._plan.folder)
        keys = list(missing)
        prompts = [
            EngineRequest(prompt_ids(tokenizer, one.body["messages"]), limited_schema(one.body, one.num_items))
            for one in missing.values()
        ]
        num_refused = 0
        for index, answer in self._engine(self._plan, prompts):
            num_refused += isinstance(answer, RefusedError)
            if is_whole and num_refused == len(keys):
                raise InputError(
                    f"vLLM with {str(self._plan.folder)!r} refuses all requests; the last one: {answer}",
                    hint="Look at qa_generation.vllm.max_model_len and engine_kwargs.",
                )
            yield keys[index], answer

    def ask_all(
        self, requests: Sequence[dict[str, object]], readers: Sequence[Callable[[str], T]], *, num_items: int = 16
    ) -> list[T | BadAnswerError | RefusedError]:
        """Return what each answer reads as, in order; see `Asker.ask_all`."""
        asked = [ClusterRequest(body, num_items, read) for body, read in zip(requests, readers, strict=True)]
        found = dict(self.ask(asked))
        return [found[index] for index in range(len(asked))]


def _read(answer: Answer, request: ClusterRequest[T]) -> T | BadAnswerError:
    try:
        return read_answer(answer, request.read)
    except BadAnswerError as reason:
        return reason
