"""Answers of OpenAI-compatible chat endpoints, streamed or whole, as they come in."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BrokenAnswerError", "Streamed", "WholeAnswer", "read_whole"]


_ANSWERING = ("content", "reasoning_content", "reasoning", "tool_calls")
"""Fields of a delta that carry a part of the answer."""


class BrokenAnswerError(Exception):
    """An answer with status 200 that is none: an error inside, garbage, or no end."""


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """Text, length in tokens and model of an answer."""

    text: str
    num_tokens: int
    model: str


@dataclass(slots=True)
class Streamed:
    """Reader of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

    num_events: int = 0
    is_done: bool = False
    model: str = ""
    usage_tokens: int | None = None
    pieces: list[str] = field(default_factory=list)
    _rest: bytes = b""

    def feed(self, data: bytes) -> None:
        """Read the next bytes.

        Raises:
            BrokenAnswerError: an event is an error, or no JSON.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._read(line[5:].strip())

    def finish(self) -> WholeAnswer:
        """Return the answer.

        Raises:
            BrokenAnswerError: the stream ended before its last event.
        """
        if not self.is_done:
            raise BrokenAnswerError("the stream broke off")
        num_tokens = self.num_events if self.usage_tokens is None else self.usage_tokens
        return WholeAnswer("".join(self.pieces), num_tokens, self.model)

    def _read(self, payload: bytes) -> None:
        if payload == b"[DONE]":
            self.is_done = True
            return
        event = _object(payload)
        if event.get("error"):
            raise BrokenAnswerError("error inside the stream")
        self.model = self.model or str(event.get("model", ""))
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            delta = choice.get("delta") if isinstance(choice, dict) else None
            # The first event of a stream names the role alone.
            if isinstance(delta, dict) and any(delta.get(key) for key in _ANSWERING):
                self.num_events += 1
                self.pieces.append(str(delta.get("content") or ""))
        usage = event.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.usage_tokens = usage["completion_tokens"]


def read_whole(body: bytes) -> WholeAnswer:
    """Read an answer that was not streamed.

    Raises:
        BrokenAnswerError: the body is no chat completion.
    """
    answer = _object(body)
    if answer.get("error"):
        raise BrokenAnswerError("error inside the answer")
    try:
        text = answer["choices"][0]["message"].get("content") or ""
        num_tokens = (answer.get("usage") or {}).get("completion_tokens") or int(bool(text))
        return WholeAnswer(str(text), int(num_tokens), str(answer.get("model", "")))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise BrokenAnswerError("no chat completion") from None


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except ValueError:
        raise BrokenAnswerError("no JSON") from None
    if not isinstance(value, dict):
        raise BrokenAnswerError("no JSON object")
    return value
