"""One request and its answer in the form that was asked for, asked again once if it has another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError
from llamafarm_ray.data.generation.endpoint.cache import Answer, AnswerCache, request_key
from llamafarm_ray.data.generation.endpoint.client import Client

__all__ = ["ask_parsed"]

_Parsed = TypeVar("_Parsed")


async def ask_parsed(
    client: Client, cache: AnswerCache, base_url: str, request: dict[str, Any], parse: Callable[[Answer], _Parsed]
) -> _Parsed:
    """Return a parsed answer; one that can't be read is asked for again once, with a note.

    The good answer is stored under the first request, the one that comes again when the work is repeated.

    Args:
        base_url: the server's address.
        parse: reads an answer, or raises `BadAnswerError`.

    Raises:
        BadAnswerError: the second answer can't be read either.
        LlamaFarmError: see `Client.ask`.
        RefusedError: likewise.
    """
    key = request_key(base_url, request)
    stored = await asyncio.to_thread(cache.get, key)
    if stored is not None:
        return parse(stored)
    answer = await client.ask(request)
    try:
        parsed = parse(answer)
    except BadAnswerError as error:
        note = f"Your answer can't be used. {error} Answer again, with the JSON object only."
        turns = [{"role": "assistant", "content": answer.content}, {"role": "user", "content": note}]
        answer = await client.ask({**request, "messages": [*request["messages"], *turns]})
        parsed = parse(answer)
    await asyncio.to_thread(cache.put, key, answer)
    return parsed
