"""Both ends of a request as the engine sees them: a client that sends what the gate wrote, and hears who answered."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from llamafarm_ray.serving.asgi import Header, Message, Receive, Scope, Send
from llamafarm_ray.serving.resolution import Target

__all__ = ["Exchange"]

_ENGINE_HEADERS = {b"accept", b"content-type", b"host", b"user-agent", b"traceparent", b"tracestate"}
"""What of the client's headers reaches the engine; others steer it (X-data-parallel-rank, X-Request-Id, ...)."""


class Exchange:
    """A request to the engine and the response to it, as an ASGI app gets them.

    Args:
        scope: of the client's request.
        receive: likewise; its body was read.
        send: where the response goes.
        body: what the engine gets instead.
        target: what answers; the response's headers say so.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, body: dict[str, Any], target: Target) -> None:
        self._receive = receive
        self._send = send
        self._body: bytes | None = json.dumps(body, ensure_ascii=False).encode()
        self._gone: asyncio.Future[Message] | None = None
        self.size_bytes = len(self._body)
        request_id = uuid.uuid4().hex.encode()
        self._told: list[Header] = [
            (b"x-llamafarm-request-id", request_id),
            (b"x-llamafarm-model", target.ref.encode()),
        ]
        if target.digest is not None:
            self._told.append((b"x-llamafarm-digest", target.digest.encode()))
        if target.variant is not None:
            self._told.append((b"x-llamafarm-variant", target.variant.encode()))
        headers = [(name, value) for name, value in scope["headers"] if name.lower() in _ENGINE_HEADERS]
        headers += [(b"content-length", str(self.size_bytes).encode()), (b"x-request-id", request_id)]
        self.scope: Scope = {**scope, "headers": headers, "query_string": b""}

    def gone(self) -> asyncio.Future[Message]:
        """What is done when the client has gone away."""
        if self._gone is None:
            self._gone = asyncio.ensure_future(self._receive())
        return self._gone

    def is_gone(self) -> bool:
        """Whether the client is known to have gone away."""
        return self._gone is not None and self._gone.done()

    async def receive(self) -> Message:
        """The body, then nothing until the client goes away."""
        if self._body is None:
            return await asyncio.shield(self.gone())  # who listens here stops listening when the answer is out
        data, self._body = self._body, None
        return {"type": "http.request", "body": data, "more_body": False}

    async def send(self, message: Message) -> None:
        """Pass a message of the response on."""
        if message["type"] == "http.response.start":
            kept = [header for header in message.get("headers", []) if header[0].lower() != b"x-request-id"]
            message = {**message, "headers": [*kept, *self._told]}
        await self._send(message)

    def close(self) -> None:
        """Stop listening to the client."""
        if self._gone is not None:
            self._gone.cancel()
