"""Ask an endpoint for JSON: several requests at once, none twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError
from llamafarm_ray.data.generation.endpoint.cache import Answer, AnswerCache
from llamafarm_ray.data.generation.endpoint.client import Client, RefusedError, Terms
from llamafarm_ray.data.generation.endpoint.parsed import ask_parsed
from llamafarm_ray.errors import InputError

__all__ = ["Asker"]

T = TypeVar("T")
Request = dict[str, Any]


class Asker:
    """Asks a server and reads its answers.

    Args:
        terms: server and limits.
        cache: answers so far.
    """

    def __init__(self, terms: Terms, cache: AnswerCache) -> None:
        self.terms = terms
        self._cache = cache

    def ask_all(
        self, requests: Sequence[Request], readers: Sequence[Callable[[str], T]]
    ) -> list[T | BadAnswerError | RefusedError]:
        """Return what each answer reads as, in order; in place of one that can't be had, the reason.

        Args:
            requests: bodies of requests, see `chat_request`.
            readers: for each request the function that reads the text of its answer, and raises BadAnswerError if it
                has another form.

        Raises:
            InputError: the server refuses all requests; see `Client.ask` for other errors.
        """
        return asyncio.run(self._ask_all(requests, readers))

    async def _ask_all(
        self, requests: Sequence[Request], readers: Sequence[Callable[[str], T]]
    ) -> list[T | BadAnswerError | RefusedError]:
        async with Client(self.terms) as client:
            tasks = [
                asyncio.create_task(self._ask_or_reason(*each, client)) for each in zip(requests, readers, strict=True)
            ]
            try:
                results = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        refusals = [result for result in results if isinstance(result, RefusedError)]
        if refusals and len(refusals) == len(results):
            raise InputError(f"The endpoint {self.terms.base_url} refuses the requests for pairs ({refusals[0]}).")
        return list(results)

    async def _ask_or_reason(
        self, request: Request, read: Callable[[str], T], client: Client
    ) -> T | BadAnswerError | RefusedError:
        try:
            return await self._ask(request, read, client)
        except (BadAnswerError, RefusedError) as reason:
            return reason

    async def _ask(self, request: Request, read: Callable[[str], T], client: Client) -> T:
        return await ask_parsed(client, self._cache, self.terms.base_url, request, lambda answer: _read(answer, read))


def _read(answer: Answer, read: Callable[[str], T]) -> T:
    if answer.finish_reason == "length":
        raise BadAnswerError("It was cut at the limit of tokens: write fewer pairs.")
    return read(answer.content)
