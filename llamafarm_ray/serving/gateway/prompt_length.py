"""Length of a request's prompt, by the engine's own tokenizer and chat template."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping

from llamafarm_ray.config import Limits
from llamafarm_ray.models.token_bound import TokenBound
from llamafarm_ray.serving.http.asgi import App, Message, Scope
from llamafarm_ray.serving.http.errors import ContextLengthError

__all__ = ["check_prompt"]

_TEMPLATE_FIELDS = ("messages", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
"""Fields of a chat request that decide its prompt; the others are not for ``/tokenize``."""


async def check_prompt(
    app: App, scope: Scope, body: Mapping[str, object], limits: Limits, bound: TokenBound | None = None
) -> None:
    """Refuse a prompt that is longer than ``limits.max_prompt_tokens``. Asks the engine's ``/tokenize``, in-process.

    Args:
        bound: refuses texts of too many characters before the engine tokenizes them.

    Raises:
        ContextLengthError: it is; how long.
    """
    most = limits.max_prompt_tokens
    if most is None:
        return
    least = max(map(bound.least, _texts(body)), default=0) if bound is not None else 0
    if least > most:
        raise _too_long(body, f"{least} tokens or more", most)
    for part in _parts(body):
        count = part if isinstance(part, int) else await _count(app, scope, {"model": body["model"], **part})
        if count > most:
            raise _too_long(body, f"{count} tokens", most)


def _too_long(body: Mapping[str, object], length: str, most: int) -> ContextLengthError:
    param = next((name for name in ("messages", "prompt", "input") if name in body), "")
    return ContextLengthError(f"The prompt has {length}; {most} is the most.", param=param, hint="Shorten it.")


def _parts(body: Mapping[str, object]) -> list[int | dict[str, object]]:
    """Return the parts that are counted separately: requests to ``/tokenize``, or lengths where tokens are given."""
    if "messages" in body:
        return [{name: body[name] for name in _TEMPLATE_FIELDS if body.get(name) is not None}]
    prompt = body.get("prompt", body.get("input"))
    if isinstance(prompt, str):
        return [{"prompt": prompt}]
    if not isinstance(prompt, list):
        return []
    if all(isinstance(token, int) for token in prompt):
        return [len(prompt)]
    return [len(one) if isinstance(one, list) else {"prompt": one} for one in prompt]


def _texts(body: Mapping[str, object]) -> Iterator[str]:
    """Yield texts that are in the prompt for sure: of a chat those of its user, which no template leaves out."""
    prompt, messages = body.get("prompt", body.get("input")), body.get("messages")
    given = prompt if isinstance(prompt, list) else [prompt]
    if isinstance(messages, list):
        # The engine refuses messages of another shape.
        asked = [one for one in messages if isinstance(one, dict) and one.get("role") == "user"]
        given = [text for message in asked for text in _contents(message)]
    for text in given:
        if isinstance(text, str):
            yield text.strip()  # templates strip them


def _contents(message: Mapping[str, object]) -> list[object]:
    """Return the texts of a message: one, or those of its parts."""
    content = message.get("content")
    if not isinstance(content, list):
        return [content]
    return [part.get("text") if isinstance(part, dict) else None for part in content]


async def _count(app: App, scope: Scope, body: Mapping[str, object]) -> int:
    """The engine's answer; 0 where it refuses, since it will refuse the request itself and say why."""
    data = json.dumps(body, ensure_ascii=False).encode()
    said, is_sent = bytearray(), False

    async def receive() -> Message:
        nonlocal is_sent
        if is_sent:  # the engine listens for the client's leaving, and stops listening when it has answered
            await asyncio.get_running_loop().create_future()
        is_sent = True
        return {"type": "http.request", "body": data, "more_body": False}

    async def send(message: Message) -> None:
        said.extend(message.get("body", b""))

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    inner = {**scope, "path": "/tokenize", "raw_path": b"/tokenize", "query_string": b"", "headers": headers}
    await app(inner, receive, send)
    answered = json.loads(said)
    return int(answered.get("count", 0))
