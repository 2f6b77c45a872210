"""The headers of the request under way, for code that is handed the body only."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

from llamafarm_ray.serving.asgi import App, Receive, Scope, Send

__all__ = ["KeepHeaders", "request_headers"]

_headers: ContextVar[Sequence[tuple[bytes, bytes]]] = ContextVar("headers", default=())


def request_headers() -> Sequence[tuple[bytes, bytes]]:
    """The headers of the request that this task answers; none outside of :class:`KeepHeaders`."""
    return _headers.get()


class KeepHeaders:
    """ASGI middleware that keeps each request's headers for :func:`request_headers`.

    Args:
        app: the application.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        _headers.set(tuple(scope.get("headers", ())))
        await self._app(scope, receive, send)
