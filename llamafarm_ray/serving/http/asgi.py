"""ASGI (https://asgi.readthedocs.io): its types, and answers in OpenAI's shape."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.serving.http.errors import (
    BodyTooLargeError,
    ColdStartError,
    LimitError,
    SlowClientError,
    UnauthenticatedError,
    param_of,
)

__all__ = ["App", "Header", "Message", "Receive", "Scope", "Send", "answer", "error_type", "refuse"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

_SERVER_ERROR = 500
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


async def answer(send: Send, status: int, body: Mapping[str, object], headers: Iterable[Header] = ()) -> None:
    """Send a whole response with a JSON body."""
    data = json.dumps(body).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": data})


def error_type(status: int) -> str:
    """Return OpenAI's ``type`` of an error with an HTTP status; clients choose their exceptions by it."""
    return "server_error" if status >= _SERVER_ERROR else _TYPES.get(status, "invalid_request_error")


async def refuse(send: Send, error: LlamaFarmError) -> None:
    """Send an error in the shape of https://platform.openai.com/docs/guides/error-codes."""
    headers: list[Header] = []
    match error:
        case UnauthenticatedError():
            headers.append((b"www-authenticate", b"Bearer"))
        case LimitError():
            headers.append(_retry_after(error.retry_after_s))
        case ColdStartError():
            headers.append(_retry_after(error.retry_after_s))
        case BodyTooLargeError() | SlowClientError():
            headers.append((b"connection", b"close"))  # the rest of the body is not read
    told = {"message": str(error), "type": error_type(error.http_status), "param": param_of(error), "code": error.code}
    body = {"error": told}
    await answer(send, error.http_status, body, headers)


def _retry_after(seconds: float) -> Header:
    return b"retry-after", str(max(1, math.ceil(seconds))).encode()
