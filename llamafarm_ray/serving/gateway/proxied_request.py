"""Request and response at the engine: the request as the gateway wrote it, the response with the version's headers."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping

from llamafarm_ray.serving.gateway.engine_errors import EngineErrors
from llamafarm_ray.serving.http.asgi import App, Header, Message, Receive, Scope, Send
from llamafarm_ray.serving.routing.resolution import Target

__all__ = ["ProxiedRequest"]

_ENGINE_HEADERS = {b"accept", b"content-type", b"host", b"user-agent", b"traceparent", b"tracestate"}
"""Client's headers that reach the engine; others steer it (X-data-parallel-rank, X-Request-Id, ...)."""
_STOP_S = 0.25
"""Seconds that an engine's app has to stop by itself once it was told that the client left."""


class ProxiedRequest:
    """A request to the engine and the response to it, as an ASGI app gets them.

    Args:
        scope: of the client's request.
        receive: likewise; its body was read.
        body: body for the engine.
        target: version that answers; the response's headers name it.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, body: Mapping[str, object], target: Target) -> None:
        self._receive = receive
        self._send = EngineErrors(send)
        self._body: bytes | None = json.dumps(body, ensure_ascii=False).encode()
        self._gone: asyncio.Future[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._has_left = False
        self.size_bytes = len(self._body)
        self.request_id = uuid.uuid4().hex
        request_id = self.request_id.encode()
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

    def gone(self) -> asyncio.Future[None]:
        """Return a future that is done when the client has gone away."""
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
            self._listening = asyncio.create_task(self._listen(self._gone))
        return self._gone

    def is_gone(self) -> bool:
        """Return True if the client is known to have gone away."""
        return self._gone is not None and self._gone.done()

    async def receive(self) -> Message:
        """Return the body, then nothing until the client goes away."""
        if self._body is None:
            await asyncio.shield(self.gone())  # who listens here stops listening when the answer is out
            return {"type": "http.disconnect"}
        data, self._body = self._body, None
        return {"type": "http.request", "body": data, "more_body": False}

    async def run(self, app: App, send: Send) -> None:
        """Run the engine's app, and stop it when the client leaves.

        Ray Serve cancels the task of a request whose client left. vLLM's handlers of whole answers don't pass a
        cancellation on: they stop when they *receive* that the client left, and compute to the end otherwise. So the
        app runs in a task of its own, is told first, and is cancelled only if it goes on for longer than a moment.

        Args:
            send: receiver of its response.
        """
        answering = asyncio.ensure_future(app(self.scope, self.receive, send))
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:
            self._leave()
            try:
                await asyncio.wait({answering}, timeout=_STOP_S)
            finally:
                answering.cancel()
            raise

    async def send(self, message: Message) -> None:
        """Pass a message of the response on; it is dropped if the request was cancelled."""
        if self._has_left:
            return
        if message["type"] == "http.response.start":
            kept = [header for header in message.get("headers", []) if header[0].lower() != b"x-request-id"]
            message = {**message, "headers": [*kept, *self._told]}
        await self._send(message)

    def close(self) -> None:
        """Stop listening to the client."""
        if self._listening is not None:
            self._listening.cancel()

    def _leave(self) -> None:
        """Tell the engine's app that the client has gone away."""
        self._has_left = True
        gone = self.gone()
        if not gone.done():
            gone.set_result(None)

    async def _listen(self, gone: asyncio.Future[None]) -> None:
        await self._receive()  # the body was read: the client has nothing else to say
        if not gone.done():
            gone.set_result(None)
