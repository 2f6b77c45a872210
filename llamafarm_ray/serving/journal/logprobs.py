"""Log-probabilities of sampled answers: asked of the engine, read on the way, and hidden from the client."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Final

from llamafarm_ray.serving.http.asgi import Message

__all__ = ["AnswerLogprobs", "ask_for_logprobs"]

_CHAT: Final = "/v1/chat/completions"
_OK: Final = 200
_DATA: Final = b"data: "
_END: Final = b"\n\n"
_FIELD: Final = b'"logprobs"'
_MAX_BYTES: Final = 4 * 1024 * 1024
"""Size of an answer that is read though nothing has to be hidden in it."""
_NOT_TOLD: Final = -9999.0
"""An engine's value for a token whose log-probability it does not tell."""


def ask_for_logprobs(path: str, body: dict[str, object]) -> AnswerLogprobs | None:
    """Ask the engine for the log-probability of each token of an answer.

    A stream is not asked for more than its client asked for: an engine sends events for tokens that it otherwise passes
    over. A request that an engine may refuse is left as it is.

    Args:
        path: route of the request.
        body: body of the request; it gets ``logprobs``, if it is not a stream and the client did not ask for them.

    Returns:
        A reader of the response; None if the answer has no log-probabilities, or repeats its prompt.
    """
    asked = body.get("logprobs", False)
    if body.get("echo") or "logprob_token_ids" in body:
        return None
    if asked is True or (path != _CHAT and type(asked) is int):
        return AnswerLogprobs(hide=False)
    if asked is not False or "top_logprobs" in body or body.get("stream"):
        return None
    if path != _CHAT and "logprobs" in body:
        return None
    body["logprobs"] = True if path == _CHAT else 0
    return AnswerLogprobs(hide=True)


class AnswerLogprobs:
    """Sums the log-probabilities of the first answer's tokens in a response.

    Args:
        hide: leave them out of the response, as the client did not ask for them.
    """

    def __init__(self, *, hide: bool) -> None:
        self._hide = hide
        self._sum = 0.0
        self._num_tokens = 0
        self._start: Message | None = None
        self._is_stream = False
        self._is_read = False
        self._held = bytearray()

    @property
    def mean(self) -> float | None:
        """Mean log-probability of the tokens; None if the engine told none."""
        return self._sum / self._num_tokens if self._num_tokens else None

    def taken(self, message: Message) -> Iterator[Message]:
        """Take a message of the engine's response, and yield those for the client.

        A whole answer is held until its end where something is to be hidden. Events of a stream are expected whole.
        """
        if message["type"] == "http.response.start":
            kind = dict(message.get("headers", [])).get(b"content-type", b"")
            self._is_stream = kind.startswith(b"text/event-stream")
            self._is_read = message["status"] == _OK and (self._is_stream or kind.startswith(b"application/json"))
            if self._is_read and self._hide and not self._is_stream:
                self._start = message
                return
            yield message
        elif message["type"] == "http.response.body" and self._is_read:
            yield from self._of_stream(message) if self._is_stream else self._of_whole(message)
        else:
            yield message

    def _of_whole(self, message: Message) -> Iterator[Message]:
        is_end = not message.get("more_body", False)
        if not self._hide:
            if len(self._held) <= _MAX_BYTES:
                self._held += message.get("body", b"")
            if is_end and len(self._held) <= _MAX_BYTES:
                self._read(bytes(self._held))
            yield message
            return
        self._held += message.get("body", b"")
        if not is_end:
            return
        body = self._read(bytes(self._held))
        start = self._start or {}
        headers = [(name, value) for name, value in start.get("headers", []) if name.lower() != b"content-length"]
        yield {**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
        yield {**message, "body": body}

    def _of_stream(self, message: Message) -> Iterator[Message]:
        body = message.get("body", b"")
        for event in body.split(_END) if _FIELD in body else ():
            if event.startswith(_DATA):
                self._read(event.removeprefix(_DATA))
        yield message

    def _read(self, data: bytes) -> bytes:
        """Take in the JSON of an answer, or of an event, and return it as the client sees it."""
        try:
            said = json.loads(data)
            choices = [choice for choice in said["choices"] if choice.get("logprobs")]
        except (ValueError, KeyError, TypeError, AttributeError):
            return data
        for choice in choices:
            if choice.get("index", 0) == 0:
                values = list(_values(choice["logprobs"]))
                self._sum += math.fsum(values)
                self._num_tokens += len(values)
            choice["logprobs"] = None
        return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() if self._hide and choices else data


def _values(told: object) -> Iterator[float]:
    """Yield the log-probabilities of a chat's or a completion's choice."""
    if not isinstance(told, Mapping):
        return
    tokens, values = told.get("content"), told.get("token_logprobs")
    if isinstance(tokens, list):
        values = [one.get("logprob") for one in tokens if isinstance(one, Mapping)]
    for value in values if isinstance(values, list) else ():
        if isinstance(value, int | float) and math.isfinite(value) and value > _NOT_TOLD:
            yield float(value)
