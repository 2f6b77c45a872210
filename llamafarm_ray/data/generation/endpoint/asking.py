"""Ask an endpoint for JSON: several requests at once, none twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError
from llamafarm_ray.data.generation.endpoint.cache import Answer, AnswerCache, request_key
from llamafarm_ray.data.generation.endpoint.client import Client, RefusedError, Terms
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
        """Return what an answer reads as; one that can't be read is asked for again once, with a note.

        The good answer is stored under the first request, the one that comes again when a build is repeated.

        Raises:
            BadAnswerError: the second answer can't be read either.
            RefusedError: the server does not take the request.
        """
        key = request_key(self.terms.base_url, request)
        stored = await asyncio.to_thread(self._cache.get, key)
        if stored is not None:
            return _read(stored, read)
        answer = await client.ask(request)
        try:
            found = _read(answer, read)
        except BadAnswerError as error:
            note = f"Your answer can't be used. {error} Answer again, with the JSON object only."
            turns = [{"role": "assistant", "content": answer.content}, {"role": "user", "content": note}]
            answer = await client.ask({**request, "messages": [*request["messages"], *turns]})
            found = _read(answer, read)
        await asyncio.to_thread(self._cache.put, key, answer)
        return found


def _read(answer: Answer, read: Callable[[str], T]) -> T:
    if answer.finish_reason == "length":
        raise BadAnswerError("It was cut at the limit of tokens: write fewer pairs.")
    return read(answer.content)
