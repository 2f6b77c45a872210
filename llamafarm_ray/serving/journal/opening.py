"""The question of a request, and the beginning of its answer on the way to the client."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llamafarm_ray.serving.http.asgi import Message, Send
from llamafarm_ray.serving.journal.logprobs import AnswerLogprobs

__all__ = ["AnswerOpening", "Opening", "question_of"]

_OK: Final = 200
_MAX_CHARS: Final = 240
_MAX_WHOLE_BYTES: Final = 1024 * 1024
_BYTES_A_CHAR: Final = 40
"""Bytes of a stream's events for each character of text: an event has some 200 for a piece of five."""
_EVENT: Final = b"data: "
_TEXTS: Final = ("content", "reasoning_content", "reasoning")
"""Fields of a message, or of a stream's piece, that hold text; a completion's is ``text``."""
_TEXT: Final = re.compile(rb'"(?:content|reasoning_content|reasoning|text)":\s?"((?:[^"\\]|\\.)*)"')
_CALL: Final = re.compile(rb'"tool_calls":\s?\[\s?\{')
_OTHER_CHOICE: Final = re.compile(rb'"choices":\s?\[\s?\{\s?"index":\s?[1-9]')


@dataclass(frozen=True, slots=True)
class Opening:
    """The beginning of an answer.

    Args:
        has_calls: True if the answer calls a tool.
        mean_logprob: mean log-probability of the answer's tokens; None if it was not asked for or not told.
    """

    text: str
    has_calls: bool = False
    mean_logprob: float | None = None

    @property
    def is_empty(self) -> bool:
        """True if the answer has no text and calls no tool."""
        return not self.text.strip() and not self.has_calls


def question_of(body: Mapping[str, object]) -> str:
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

    Of a stream it holds the first events, and reads them when it is asked.

    Args:
        max_chars: number of the answer's characters that are read.
        logprobs: reads the answer's log-probabilities first; None if they are not asked for.
    """

    def __init__(self, send: Send, max_chars: int = _MAX_CHARS, logprobs: AnswerLogprobs | None = None) -> None:
        self.max_chars = max_chars
        self._logprobs = logprobs
        self._send = send
        self._is_stream = False
        self._is_open = False
        self._held = bytearray()
        self._max_bytes = max_chars * _BYTES_A_CHAR

    async def __call__(self, message: Message) -> None:
        """Take one message of the response."""
        for one in (message,) if self._logprobs is None else self._logprobs.taken(message):
            await self._pass(one)

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message.get("headers", [])).get(b"content-type", b"")
            self._is_stream = kind.startswith(b"text/event-stream")
            self._is_open = message["status"] == _OK and (self._is_stream or kind.startswith(b"application/json"))
        elif self._is_open and message["type"] == "http.response.body":
            self._held += message.get("body", b"")
            if self._is_stream:
                self._is_open = len(self._held) < self._max_bytes
            elif len(self._held) > _MAX_WHOLE_BYTES:
                self._is_open = False
                self._held.clear()
        await self._send(message)

    def read(self) -> Opening | None:
        """Return the beginning of the answer; None if the response was none."""
        if not self._held:
            return None
        found = self._of_stream() if self._is_stream else _of_whole(_parsed(bytes(self._held)))
        if found is None:
            return None
        mean = self._logprobs.mean if self._logprobs is not None else None
        return Opening(found.text[: self.max_chars], has_calls=found.has_calls, mean_logprob=mean)

    def _of_stream(self) -> Opening | None:
        events = bytes(self._held)
        if b'"choices"' not in events:
            return None
        if _OTHER_CHOICE.search(events):
            pieces = [_parsed(event) for event in events.split(_EVENT)[1:]]
            read = [one for one in map(_of_whole, pieces) if one is not None]
            return Opening("".join(one.text for one in read), has_calls=any(one.has_calls for one in read))
        # JSON escapes quotes inside of strings, so a field's name in quotes is a field.
        text = _parsed_text(b"".join(_TEXT.findall(events)))
        return Opening(text, has_calls=_CALL.search(events) is not None)


def _of_whole(said: Mapping[str, object]) -> Opening | None:
    """Return the first answer of a response, or of a piece of a stream."""
    choices = said.get("choices")
    if not isinstance(choices, list):
        return None
    chosen = (one for one in choices if isinstance(one, Mapping) and one.get("index", 0) == 0)
    choice = next(chosen, {})
    said = choice.get("delta") or choice.get("message") or {}
    fields = [choice.get("text"), *(said.get(name) for name in _TEXTS)] if isinstance(said, Mapping) else []
    text = "".join(field for field in fields if isinstance(field, str))
    return Opening(text, has_calls=isinstance(said, Mapping) and bool(said.get("tool_calls")))


def _parsed_text(inside: bytes) -> str:
    """Return the text that is written inside the quotes of a JSON string."""
    try:
        text = json.loads(b'"' + inside + b'"', strict=False)
    except ValueError:
        return inside.decode(errors="replace")
    return str(text)


def _parsed(data: bytes) -> Mapping[str, object]:
    try:
        parsed = json.loads(data.strip())
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
