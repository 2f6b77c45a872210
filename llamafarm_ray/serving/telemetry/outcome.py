"""Outcome of a request at the engine: its end, duration and tokens."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from llamafarm_ray.serving.http.asgi import Message, Send
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.telemetry.token_usage import Usage

__all__ = ["End", "FinishedRequest", "ResponseWatch"]

_REFUSED = 400
_FAILED = 500
_ERROR_EVENT = b'data: {"error"'
"""Beginning of vLLM's event for a failed stream: the status was sent long before."""
_EVENT_END = b"\n\n"


class End(enum.StrEnum):
    """End of a request that reached the engine."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """The client's mistake (a 4xx)."""
    FAILED = "failed"
    """A 5xx, or an answer that broke off."""
    CANCELLED = "cancelled"
    """The client went away before the end."""


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request that the engine is done with.

    Attributes:
        target: version that answered, with its side of a rollout.
        latency_s: seconds from its turn at the engine to the end of the response.
        first_token_s: seconds until a stream's first event; ``None`` without a stream, or without an event.
        status: of the HTTP response, or of the error that ended a stream; 0 where none was sent.
    """

    target: Target
    end: End
    latency_s: float
    first_token_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    status: int = 0

    @property
    def inter_token_s(self) -> float | None:
        """The mean gap between a stream's tokens in seconds; ``None`` where there are none."""
        if self.first_token_s is None or self.completion_tokens < 2:  # a gap has two sides
            return None
        return (self.latency_s - self.first_token_s) / (self.completion_tokens - 1)


class ResponseWatch:
    """Passes a response on, and notes how it goes. Its time begins when it is made.

    Args:
        send: receiver of the response; events of a stream are expected whole.
        is_gone: returns True once the client has gone away.
    """

    def __init__(self, send: Send, is_gone: Callable[[], bool]) -> None:
        self._send = send
        self._is_gone = is_gone
        self._begun = time.perf_counter()
        self._first_s: float | None = None
        self._status = 0
        self._is_stream = False
        self._is_complete = False
        self._is_cancelled = False

    async def __call__(self, message: Message) -> None:
        """Take one message of the response."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._is_cancelled = self._is_gone()  # vLLM answers who left with an empty 200
            kind = dict(message.get("headers", [])).get(b"content-type", b"")
            self._is_stream = kind.startswith(b"text/event-stream")
        elif message["type"] == "http.response.body":
            if self._is_stream and message.get("body"):
                self._see_events(message["body"])
            self._is_complete = not message.get("more_body", False)
        try:
            await self._send(message)
        except OSError:  # how ASGI servers say that nobody listens any more
            self._is_cancelled = True
            raise

    def finished(self, target: Target, usage: Usage) -> FinishedRequest:
        """Return the outcome, once the engine's app has returned or failed.

        Args:
            usage: the tokens it took.
        """
        return FinishedRequest(
            target=target,
            end=self._end(),
            latency_s=time.perf_counter() - self._begun,
            first_token_s=self._first_s,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            status=self._status,
        )

    def _end(self) -> End:
        if self._is_cancelled or (not self._is_complete and self._is_gone()):
            return End.CANCELLED
        if not self._is_complete:
            return End.FAILED
        if self._status >= _FAILED:
            return End.FAILED
        return End.REFUSED if self._status >= _REFUSED else End.ANSWERED

    def _see_events(self, events: bytes) -> None:
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._begun
        if _ERROR_EVENT in events:
            for event in events.split(_EVENT_END):
                if event.startswith(_ERROR_EVENT):
                    self._status = _code(event.removeprefix(b"data: "))


def _code(event: bytes) -> int:
    """The status in an error's event; 500 where it says none."""
    try:
        code = json.loads(event)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return _FAILED
    return code if isinstance(code, int) else _FAILED
