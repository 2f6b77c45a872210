"""Errors of an engine, in the shape of the gateway's own: OpenAI's, and without the request's values.

vLLM's ``code`` is the HTTP status as a number, its ``type`` the name of a Python class, and messages about fields that
it can't read repeat what was in them.
"""

from __future__ import annotations

import json
import re
from typing import Any

from llamafarm_ray.serving.http.asgi import Message, Send, error_type

__all__ = ["EngineErrors"]

_REFUSED, _FAILED = 400, 500
_ERROR_EVENT = b'data: {"error"'
_EVENT_END = b"\n\n"
_CODES = {400: "invalid_input", 404: "model_not_found", 422: "invalid_input", 501: "unsupported", 503: "unavailable"}
_TOO_LONG = ("This model's maximum context length", "The decoder prompt (length ", "Input length ")
"""How vLLM's errors of a prompt that is too long begin."""
_VALIDATION = re.compile(r"\d+ validation errors?:")
_FIELD = re.compile(r"'loc': '(?P<loc>[^']*)', 'msg': (?P<quote>['\"])(?P<msg>.*?)(?P=quote)(?:, 'input'|, 'ctx'|})")


class EngineErrors:
    """Passes a response on, with its error in OpenAI's shape if it has one.

    Args:
        send: receiver of the response; events of a stream are expected whole.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        """Take one message of the response."""
        if message["type"] == "http.response.start" and message["status"] >= _REFUSED:
            self._held = message  # its length is known when its body is
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body = message.get("body", b"")
        if self._held is None:
            await self._send({**message, "body": _events(body)} if _ERROR_EVENT in body else message)
            return
        self._body += body
        if message.get("more_body", False):
            return
        start, self._held = self._held, None
        data = _shaped(bytes(self._body), start["status"])
        headers = [header for header in start.get("headers", []) if header[0].lower() != b"content-length"]
        await self._send({**start, "headers": [*headers, (b"content-length", str(len(data)).encode())]})
        await self._send({"type": "http.response.body", "body": data})


def _events(events: bytes) -> bytes:
    parts = events.split(_EVENT_END)
    return _EVENT_END.join(
        b"data: " + _shaped(part.removeprefix(b"data: "), _FAILED) if part.startswith(_ERROR_EVENT) else part
        for part in parts
    )


def _shaped(data: bytes, status: int) -> bytes:
    """Return an error's JSON in OpenAI's shape; anything else as it is."""
    try:
        error: Any = json.loads(data)["error"]
        message, param, code = str(error["message"]), error.get("param"), error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        return data
    if isinstance(code, str):  # an engine of our own
        return data
    if isinstance(code, int) and _REFUSED <= code < 600:
        status = code
    name = "context_length_exceeded" if message.startswith(_TOO_LONG) else _CODES.get(status, "engine_error")
    param = param.removeprefix("body.") if isinstance(param, str) else None
    told = {"message": _without_values(message), "type": error_type(status), "param": param, "code": name}
    return json.dumps({"error": told}).encode()


def _without_values(message: str) -> str:
    """Return a message about fields with their names and mistakes alone."""
    if not _VALIDATION.match(message):
        return message
    fields = [f"{match['loc'].removeprefix('body.')}: {match['msg']}" for match in _FIELD.finditer(message)]
    return f"The request can't be read: {'; '.join(dict.fromkeys(fields)) or 'a field has a wrong type or value'}."
