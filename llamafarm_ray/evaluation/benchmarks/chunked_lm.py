"""lm-eval's view of a model whose requests are answered in chunks by workers, and kept until the benchmark is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from lm_eval.api.model import LM

from llamafarm_ray.evaluation.benchmarks.asked import AskedModel, Chunk
from llamafarm_ray.evaluation.benchmarks.backends import RequestKind
from llamafarm_ray.evaluation.benchmarks.workers import Workers
from llamafarm_ray.evaluation.kept import KeptBatches

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

__all__ = ["ChunkedLM"]

_QUESTIONS_A_CHUNK: Final = 32
"""Chunks don't depend on the number of workers, so neither do batches and scores."""


class ChunkedLM(LM):  # type: ignore[misc]  # lm-eval has no types
    """A model of lm-eval.

    Args:
        store: keeps answers of chunks; None keeps none.
        has_template: True if lm-eval writes texts with the chat template.
        on_progress: called with the fraction of the requests that is answered.
    """

    def __init__(
        self,
        workers: Workers,
        model: AskedModel,
        store: KeptBatches | None,
        *,
        has_template: bool,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._workers, self._model, self._store = workers, model, store
        self._has_template = has_template
        self._on_progress = on_progress

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log-probabilities of continuations, and whether they are the most probable ones."""
        del disable_tqdm
        return [(float(logprob), bool(greedy)) for logprob, greedy in self._answers("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return log-probabilities of whole texts."""
        del disable_tqdm
        return [float(one) for one in self._answers("loglikelihood_rolling", requests)]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return answers."""
        del disable_tqdm
        return [str(one) for one in self._answers("generate_until", requests)]

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a chat as the model's template writes it."""
        return self._workers.render(self._model, list(chat_history), add_generation_prompt=add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer: nothing is kept by it."""
        return ""

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the chat template, where one is applied."""
        return self._workers.fact(self._model, "chat_template") if chat_template else None

    def _answers(self, kind: RequestKind, requests: Sequence[Instance]) -> list[Any]:
        chunks = [Chunk(kind, found, self._has_template) for found in _by_question(requests)]
        answers: dict[int, list[object]] = {}
        if self._store is not None:
            for number, chunk in enumerate(chunks):
                known = self._store.find(chunk)
                if known is not None and len(known) == len(chunk.requests):
                    answers[number] = known
        missing = [number for number in range(len(chunks)) if number not in answers]
        for place, found in self._workers.answers(self._model, [chunks[number] for number in missing]):
            number = missing[place]
            answers[number] = found
            if self._store is not None:
                self._store.keep(chunks[number], found)
            self._on_progress(len(answers) / len(chunks))
        return [one for number in range(len(chunks)) for one in answers[number]]


def _by_question(requests: Sequence[Instance]) -> Iterator[tuple[tuple[object, ...], ...]]:
    """Yield the arguments of requests in chunks of whole questions, since choices of one question share a text."""
    chunk: list[tuple[object, ...]] = []
    seen, last = 0, None
    for request in requests:
        question = (request.task_name, request.doc_id)
        if question != last:
            if seen == _QUESTIONS_A_CHUNK:
                yield tuple(chunk)
                chunk, seen = [], 0
            seen, last = seen + 1, question
        chunk.append(tuple(request.args))
    if chunk:
        yield tuple(chunk)
