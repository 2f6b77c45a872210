"""The question of a request, and the beginning of its answer on the way to the client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from llamafarm_ray.serving.asgi import Message, Send

__all__ = ["AnswerOpening", "question_of"]

_OK: Final = 200
_MAX_CHARS: Final = 240
_MAX_WHOLE_BYTES: Final = 1024 * 1024
_EVENT: Final = b"data: {"
_TEXTS: Final = ("content", "reasoning_content", "reasoning")
"""Fields of a message or of a stream's piece that hold text; of a stream of completions it is ``text``."""


def question_of(body: Mapping[str, Any]) -> str:
    """Return the text of a request's last message by a user, or of its prompt; "" if it has none."""
    messages = body.get("messages")
    if isinstance(messages, list):
        for message in reversed(messages):
            if isinstance(message, Mapping) and message.get("role") == "user":
                return _text(message.get("content"))
        return ""
    prompt = body.get("prompt", body.get("input"))
    return next((one for one in prompt if isinstance(one, str)), "") if isinstance(prompt, list) else _text(prompt)


def _text(content: object) -> str:
    """Return the text of a message's content, which may come in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, Mapping))
    return "\n".join(part for part in parts if isinstance(part, str))


class AnswerOpening:
    """Passes a response on, and keeps the beginning of its first answer.

    Args:
        send: where the response goes.
        max_chars: how much of it is kept.

    Attributes:
        text: the beginning.
        is_read: whether the response was an answer, and was read.
        has_calls: whether the answer calls a tool.
    """

    def __init__(self, send: Send, max_chars: int = _MAX_CHARS) -> None:
        self._send = send
        self.max_chars = max_chars
        self._is_stream = False
        self._is_open = False
        self._held = bytearray()
        self.text = ""
        self.is_read = False
        self.has_calls = False

    @property
    def is_empty(self) -> bool:
        """Whether the answer says nothing and calls no tool."""
        return not self.text.strip() and not self.has_calls

    async def __call__(self, message: Message) -> None:
        """Take one message of the response."""
        if message["type"] == "http.response.start":
            kind = dict(message.get("headers", [])).get(b"content-type", b"")
            self._is_stream = kind.startswith(b"text/event-stream")
            self._is_open = message["status"] == _OK and (self._is_stream or kind.startswith(b"application/json"))
        elif self._is_open and message["type"] == "http.response.body":
            body = message.get("body", b"")
            if self._is_stream:
                self._read_events(body)
            else:
                self._read_whole(body, is_last=not message.get("more_body", False))
        await self._send(message)

    def _read_whole(self, body: bytes, *, is_last: bool) -> None:
        self._held += body
        if len(self._held) > _MAX_WHOLE_BYTES:
            self._is_open = False
        elif is_last:
            self._take(_parsed(bytes(self._held)))
            self._is_open = False

    def _read_events(self, body: bytes) -> None:
        self._held += body
        *whole, rest = self._held.split(b"\n\n")
        self._held = bytearray(rest)
        for event in whole:
            if event.startswith(_EVENT):
                self._take(_parsed(bytes(event[len(_EVENT) - 1 :])))
        if len(self.text) >= self.max_chars or len(rest) > _MAX_WHOLE_BYTES:
            self._is_open = False
            self._held.clear()

    def _take(self, said: Mapping[str, Any]) -> None:
        """Add the text of one answer, or of a piece of it."""
        choices = said.get("choices")
        if not isinstance(choices, list):
            return
        self.is_read = True
        for choice in choices:
            if not isinstance(choice, Mapping) or choice.get("index", 0) != 0:
                continue
            piece = choice.get("delta") or choice.get("message") or {}
            texts = [choice.get("text"), *(piece.get(name) for name in _TEXTS)] if isinstance(piece, Mapping) else []
            self.text = (self.text + "".join(text for text in texts if isinstance(text, str)))[: self.max_chars]
            self.has_calls = self.has_calls or bool(isinstance(piece, Mapping) and piece.get("tool_calls"))


def _parsed(data: bytes) -> Mapping[str, Any]:
    try:
        parsed = json.loads(data)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
