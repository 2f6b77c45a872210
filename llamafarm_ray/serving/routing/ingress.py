"""Choice of a replica for each request of the proxy, answered before the web framework.

HAProxy waits for the answer before it passes a request on, so its time is part of every time to first token. The
contract is that of Ray's ``LLMRouter`` (its docstring says it): ``POST /internal/route`` with a request's body and its
session header is answered by a flat JSON object.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ray.serve.exceptions import RayServeException

from llamafarm_ray.serving.http.asgi import App, Header, Receive, Scope, Send, answer

__all__ = ["ROUTE", "Decide", "Routing"]

logger = logging.getLogger(__name__)

ROUTE = "/internal/route"
"""Route that HAProxy asks."""

Decide = Callable[[Sequence[Header], Mapping[str, object]], Awaitable[Mapping[str, object]]]
"""Gives the answer for a request's headers and body; the body is empty where it is no JSON object, or was cut."""


class Routing:
    """ASGI middleware that answers the proxy; all else is the application's.

    Args:
        decide: gives the answers; a Serve or runtime error of it is a 503, which the proxy gives its client.
    """

    def __init__(self, app: App, decide: Decide) -> None:
        self._app = app
        self._decide = decide

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", ROUTE):
            await self._app(scope, receive, send)
            return
        try:
            decision = await self._decide(scope["headers"], _parsed(await _read(receive)))
        except (RayServeException, RuntimeError) as error:
            logger.warning("No replica for a request: %s", error)
            await answer(send, 503, {"detail": str(error)})
            return
        await answer(send, 200, decision)


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def _parsed(data: bytes) -> dict[str, object]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
