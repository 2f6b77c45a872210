"""Ask an endpoint for JSON: several requests at once, none twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError
from llamafarm_ray.data.generation.endpoint.batches import BatchTerms, answers_by_batch
from llamafarm_ray.data.generation.endpoint.cache import Answer, AnswerCache, request_key
from llamafarm_ray.data.generation.endpoint.client import Client, RefusedError, Terms, all_of
from llamafarm_ray.data.generation.endpoint.parsed import ask_parsed
from llamafarm_ray.errors import InputError

__all__ = ["Asker", "read_answer"]

_BATCH_ROUNDS = 3
"""Batches, one after another, for requests that are not answered; those of the last one are asked one by one."""

T = TypeVar("T")
Request = dict[str, object]


class Asker:
    """Asks a server and reads its answers.

    Args:
        batches: settings of the server's batch API; None: each request is sent by itself.
    """

    def __init__(self, terms: Terms, cache: AnswerCache, batches: BatchTerms | None = None) -> None:
        self.terms = terms
        self._cache = cache
        self._batches = batches
        self._is_answered = False

    def ask_all(
        self, requests: Sequence[Request], readers: Sequence[Callable[[str], T]]
    ) -> list[T | BadAnswerError | RefusedError]:
        """Return what each answer reads as, in order; in place of one that can't be had, the reason.

        Args:
            requests: bodies of requests, see `chat_request`.
            readers: for each request the function that reads the text of its answer, and raises BadAnswerError if it
                has another form.

        Raises:
            InputError: the server refuses all requests, and answered none before; see `Client.ask` for other errors.
        """
        return asyncio.run(self._ask_all(requests, readers))

    async def _ask_all(
        self, requests: Sequence[Request], readers: Sequence[Callable[[str], T]]
    ) -> list[T | BadAnswerError | RefusedError]:
        async with Client(self.terms) as client:
            if self._batches is not None:
                await self._ask_in_batches(requests, readers, client, self._batches)
            asked = zip(requests, readers, strict=True)
            results = await all_of(self._ask_or_reason(*each, client) for each in asked)
        refusals = [result for result in results if isinstance(result, RefusedError)]
        self._is_answered = self._is_answered or len(refusals) < len(results)
        if refusals and not self._is_answered:
            raise InputError(f"The endpoint {self.terms.base_url} refuses all requests ({refusals[0]}).")
        return results

    async def _ask_in_batches(
        self, requests: Sequence[Request], readers: Sequence[Callable[[str], T]], client: Client, batches: BatchTerms
    ) -> None:
        """Store what batches answer; what they leave over, and answers of another form, are asked for one by one."""
        keys = [request_key(self.terms.base_url, request) for request in requests]
        stored = await asyncio.gather(*(asyncio.to_thread(self._cache.get, key) for key in keys))
        asked = zip(keys, requests, readers, stored, strict=True)
        missing = {key: (request, read) for key, request, read, answer in asked if answer is None}
        for _ in range(_BATCH_ROUNDS):
            if len(missing) <= self.terms.concurrency:
                return
            form = set(client.terms.dialect.changes)
            bodies = {key: request for key, (request, _) in missing.items()}
            answers = await answers_by_batch(client, bodies, batches)
            for key, answer in answers.items():
                _, read = missing.pop(key)
                with contextlib.suppress(BadAnswerError):
                    read_answer(answer, read)
                    await asyncio.to_thread(self._cache.put, key, answer)
            if not answers and form == client.terms.dialect.changes:
                return

    async def _ask_or_reason(
        self, request: Request, read: Callable[[str], T], client: Client
    ) -> T | BadAnswerError | RefusedError:
        try:
            return await self._ask(request, read, client)
        except (BadAnswerError, RefusedError) as reason:
            return reason

    async def _ask(self, request: Request, read: Callable[[str], T], client: Client) -> T:
        return await ask_parsed(
            client, self._cache, self.terms.base_url, request, lambda answer: read_answer(answer, read)
        )


def read_answer(answer: Answer, read: Callable[[str], T]) -> T:
    """Read an answer.

    Raises:
        BadAnswerError: it was cut, or has another form.
    """
    if answer.finish_reason == "length":
        raise BadAnswerError("It was cut at the limit of tokens: write fewer pairs.")
    return read(answer.content)
