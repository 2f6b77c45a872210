"""Write pairs by asking an endpoint: a request for each passage, several at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.data.coverage import facts_of
from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError, Pair, examples_from, parse_answer
from llamafarm_ray.data.generation.endpoint.cache import Answer, AnswerCache
from llamafarm_ray.data.generation.endpoint.client import Client, RefusedError, Terms
from llamafarm_ray.data.generation.endpoint.parsed import ask_parsed
from llamafarm_ray.data.generation.endpoint.prompt import messages_of, num_pairs_of
from llamafarm_ray.data.generation.endpoint.requests import chat_request
from llamafarm_ray.data.generation.writer import Written
from llamafarm_ray.data.rows import Passage, Provenance
from llamafarm_ray.errors import InputError

__all__ = ["Asking", "EndpointWriter", "request_of"]


@dataclass(frozen=True, slots=True)
class Asking:
    """Settings that decide what a model is asked for.

    Args:
        model: its name at the endpoint.
        temperature: of sampling.
        max_output_tokens: longest answer.
        questions_per_doc: pairs wanted of a document; None: one for each fact.
        phrasings: wordings of each question.
        unanswerable: ask for questions too that the passage does not answer.
    """

    model: str
    temperature: float
    max_output_tokens: int
    questions_per_doc: int | None
    phrasings: int
    unanswerable: bool


def request_of(passage: Passage, asking: Asking) -> dict[str, Any] | None:
    """Return the request for a passage; None if no pairs are wanted of it."""
    num_pairs = num_pairs_of(passage, asking.questions_per_doc, len(facts_of(passage.text)))
    if num_pairs == 0:
        return None
    messages = messages_of(passage, num_pairs, phrasings=asking.phrasings, unanswerable=asking.unanswerable)
    return chat_request(
        asking.model, messages, temperature=asking.temperature, max_output_tokens=asking.max_output_tokens
    )


class EndpointWriter:
    """A `PairWriter` over an endpoint.

    Args:
        asking: what to ask.
        terms: server and limits.
        cache: answers so far.
        provenance: recorded with each example.
    """

    name = "endpoint"

    def __init__(self, asking: Asking, terms: Terms, cache: AnswerCache, provenance: Provenance) -> None:
        self._asking = asking
        self._terms = terms
        self._cache = cache
        self._provenance = provenance

    def write(self, passages: Sequence[Passage]) -> Iterator[Written]:
        """See `PairWriter.write`.

        Raises:
            InputError: the server refuses every request of a batch; see `Client.ask` for other errors.
        """
        yield from asyncio.run(self._write(passages))

    async def _write(self, passages: Sequence[Passage]) -> list[Written]:
        async with Client(self._terms) as client:
            tasks = [asyncio.create_task(self._write_one(passage, client)) for passage in passages]
            try:
                results = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        refusals = [result for result in results if isinstance(result, RefusedError)]
        if refusals and len(refusals) == len(results):
            raise InputError(f"The endpoint {self._terms.base_url} refuses the requests for pairs ({refusals[0]}).")
        refused = Written(dropped={"request refused by the endpoint": 1})
        return [refused if isinstance(result, RefusedError) else result for result in results]

    async def _write_one(self, passage: Passage, client: Client) -> Written | RefusedError:
        request = request_of(passage, self._asking)
        if request is None:
            return Written(dropped={"passage not asked about: questions_per_doc is reached": 1})
        try:
            pairs = await ask_parsed(client, self._cache, self._terms.base_url, request, _parse)
        except BadAnswerError:
            return Written(dropped={"answer is not the JSON that was asked for": 1})
        except RefusedError as refusal:
            return refusal
        examples, dropped = examples_from(pairs, passage, self._provenance, unanswerable=self._asking.unanswerable)
        return Written(tuple(examples), Counter(dropped))


def _parse(answer: Answer) -> list[Pair]:
    if answer.finish_reason == "length":
        raise BadAnswerError("It was cut at the limit of tokens: write fewer pairs.")
    return parse_answer(answer.content)
