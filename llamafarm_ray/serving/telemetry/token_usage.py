"""Token counts of a request, read from the response on its way to the client."""

from __future__ import annotations

import json

from llamafarm_ray.serving.http.asgi import Message, Send

__all__ = ["COMPLETION_WEIGHT", "Usage", "UsageMeter", "ask_for_usage"]

COMPLETION_WEIGHT = 2.0
"""Cost of a token of an answer, one of a prompt being 1: w_q and w_p of https://arxiv.org/abs/2401.00588."""

_OK = 200
_MAX_HELD_BYTES = 32 * 1024 * 1024
"""A whole answer larger than this is passed on unread."""
_END = b"\n\n"


class Usage:
    """Tokens of a request, as far as they are known.

    Args:
        prompt_tokens: a guess, until the engine says.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self.is_exact = False

    def take(self, said: object) -> None:
        """Take in the ``usage`` of a response; anything else is passed over."""
        if not isinstance(said, dict):
            return
        prompt, completion = said.get("prompt_tokens", 0), said.get("completion_tokens") or 0
        if isinstance(prompt, int) and isinstance(completion, int):
            self.prompt_tokens, self.completion_tokens, self.is_exact = prompt, completion, True


def ask_for_usage(body: dict[str, object]) -> bool:
    """Ask for a stream that ends with its usage; return True if the client had not asked for that.

    See ``stream_options`` of https://platform.openai.com/docs/api-reference/chat/create: an event without choices comes
    last.
    """
    if body.get("stream") is not True:
        return False
    options = body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage") is True:
        return False
    body["stream_options"] = {"include_usage": True}
    return True


class UsageMeter:
    """Passes a response on, and reads its usage.

    Of a stream that is cut off, each event counts as one token of the answer.

    Args:
        usage: receives the counts.
        hide: leave out the event with the usage, which the client did not ask for.
    """

    def __init__(self, send: Send, usage: Usage, *, hide: bool) -> None:
        self._send = send
        self._usage = usage
        self._hide = hide
        self._is_stream = False
        self._is_read = False
        self._held = bytearray()

    async def __call__(self, message: Message) -> None:
        """Take one message of the engine's response."""
        if message["type"] == "http.response.start":
            kind = dict(message.get("headers", [])).get(b"content-type", b"")
            self._is_stream = kind.startswith(b"text/event-stream")
            self._is_read = message["status"] == _OK and (self._is_stream or kind.startswith(b"application/json"))
            if not self._is_read:
                self._usage.prompt_tokens = 0  # refused: nothing was computed
        elif message["type"] == "http.response.body" and self._is_read:
            message = self._of_stream(message) if self._is_stream else self._of_whole(message)
        await self._send(message)

    def _of_whole(self, message: Message) -> Message:
        self._held += message.get("body", b"")
        if len(self._held) > _MAX_HELD_BYTES:
            self._is_read = False
        elif not message.get("more_body", False):
            self._usage.take(_parsed(bytes(self._held)).get("usage"))
        return message

    def _of_stream(self, message: Message) -> Message:
        """Return the message with whole events only; the rest of the last one comes with the next message."""
        body = message.get("body", b"")
        if not self._held and body.endswith(_END) and b'"usage"' not in body:  # nearly all messages of vLLM
            self._count(body)
            return message
        self._held += body
        end = len(self._held)
        if message.get("more_body", False) and (end := self._held.rfind(_END) + len(_END)) < len(_END):
            return {**message, "body": b""}
        events, self._held = bytes(self._held[:end]), self._held[end:]
        if b'"usage"' in events:
            events = _END.join(event for event in events.split(_END) if not self._is_hidden(event))
        self._count(events)
        return {**message, "body": events}

    def _count(self, events: bytes) -> None:
        if not self._usage.is_exact:
            self._usage.completion_tokens += events.count(b"data: {")

    def _is_hidden(self, event: bytes) -> bool:
        """Take in an event's usage; return True if the event is hidden from the client."""
        if not event.startswith(b"data: {") or b'"usage"' not in event:
            return False
        parsed = _parsed(event.removeprefix(b"data: "))
        self._usage.take(parsed.get("usage"))
        return self._hide and parsed.get("choices") == []


def _parsed(data: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(data)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
