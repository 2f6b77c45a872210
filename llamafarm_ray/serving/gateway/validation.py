"""Reading a request that may be hostile: its headers, its body in time and within bounds, and what the body says.

Requests that are not understood are refused here, before any part of them reaches the engine. The JSON is RFC 8259's,
read strictly: no NaN or Infinity, no key twice, no lone surrogates, no deep nesting; the engine gets it written anew.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from llamafarm_ray.config import Limits
from llamafarm_ray.errors import InputError
from llamafarm_ray.serving.gateway.auto_selection import LIMIT_HEADERS
from llamafarm_ray.serving.http.asgi import Header, Receive, Scope
from llamafarm_ray.serving.http.errors import (
    BodyTooLargeError,
    FieldError,
    HeadersTooLargeError,
    MediaTypeError,
    SlowClientError,
)
from llamafarm_ray.serving.routing.signed_header import ROUTED_HEADER
from llamafarm_ray.serving.routing.traffic_split import Caller

__all__ = [
    "SESSION_HEADER",
    "bound_generation",
    "caller_of",
    "check_headers",
    "check_shape",
    "read_object",
]

SESSION_HEADER = "x-llamafarm-session"
"""The request header that names a session: a rollout gives all of its requests the same variant."""

_MAX_DEPTH = 64
_MAX_NAME_CHARS = 320
"""The longest model reference: a namespace, a name, an alias or version, and a digest."""
_MAX_INT = 2**63
_MAX_HEADERS = 128
_MAX_HEADER_BYTES = 65_536  # of all of them together
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
"""A header's name in ASGI: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2, in lower case."""
_NOT_IN_VALUES = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ONCE = {b"authorization", b"content-length", b"content-type", b"host", b"transfer-encoding", b"expect", *LIMIT_HEADERS}
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""JSON escape of a surrogate; a second check looks for its other half."""
_OURS = b"x-llamafarm-"
_SESSION = SESSION_HEADER.encode()
_OF_CLIENTS = {_SESSION, *LIMIT_HEADERS}
_ROUTED_SPELLINGS = re.compile(rb"serve[-_]multiplexed[-_]model[-_]id")
_ENGINE_FIELDS = frozenset(
    {
        "ec_transfer_params",
        "kv_transfer_params",
        "priority",
        "prompt_embeds",
        "request_id",
        "vllm_xargs",
    }
)
"""Fields by which vLLM lets its own front end steer it: they reach into other requests, or load pickles."""


def check_headers(headers: Iterable[Header]) -> str | None:
    """Refuse headers that hide another request, or pretend to come from within.

    Returns:
        the engine name that the router chose, from the header that the proxy takes away from clients' requests and
        that only one spelling of is believed.

    Raises:
        InputError: a header is malformed, given twice, or not for clients to send.
        HeadersTooLargeError: there are too many, or they are too long.
    """
    headers = list(headers)
    if len(headers) > _MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > _MAX_HEADER_BYTES:
        raise HeadersTooLargeError(f"The headers are more than {_MAX_HEADERS}, or {_MAX_HEADER_BYTES} bytes.")
    seen: set[bytes] = set()
    routed: str | None = None
    for raw, value in headers:
        name = raw.lower()
        if not _TOKEN.fullmatch(name) or _NOT_IN_VALUES.search(value):
            raise InputError(f"The header {_shown(name)} is malformed.")
        if name in seen and (name in _ONCE or name == ROUTED_HEADER):
            raise InputError(f"The header {_shown(name)} is given twice.")
        seen.add(name)
        if name.replace(b"_", b"-").startswith(_OURS) and name not in _OF_CLIENTS:
            raise InputError(f"The header {_shown(name)} is for responses only.", hint="Leave it out.")
        if _ROUTED_SPELLINGS.fullmatch(name):
            if name != ROUTED_HEADER:
                raise InputError(f"The header {_shown(name)} is not for clients.", hint="Leave it out.")
            routed = value.decode("latin-1") or None
    if {b"content-length", b"transfer-encoding"} <= seen:
        raise InputError("The request has a Content-Length and a Transfer-Encoding.", hint="Send one of them.")
    return routed


def caller_of(headers: Iterable[Header], body: Mapping[str, object]) -> Caller:
    """Return the sender of a request, as far as its headers and body tell."""
    sessions = (bytes(value).decode("latin-1") for key, value in headers if key.lower() == _SESSION)
    user = body.get("user")
    return Caller(user if isinstance(user, str) else "", next(sessions, ""))


async def read_object(scope: Scope, receive: Receive, limits: Limits) -> dict[str, Any]:
    """The JSON object that is a request's body.

    Raises:
        InputError: the body is none, or does not have the length it was announced with.
        MediaTypeError: it is announced as something else.
        BodyTooLargeError: it has more than ``limits.max_body_bytes``.
        SlowClientError: it takes longer than ``limits.body_timeout_s``.
    """
    told = {name.lower(): value for name, value in scope["headers"]}
    media_type = told.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":  # a browser sends any other type to this machine without asking (CORS)
        raise MediaTypeError(
            f"The request's body is {_shown(media_type) if media_type else 'of no type'}.",
            hint="Send it with 'Content-Type: application/json'.",
        )
    if told.get(b"content-encoding", b"identity").lower() != b"identity":
        raise MediaTypeError("The request's body is encoded.", hint="Send it without a Content-Encoding.")
    announced = _length(told.get(b"content-length"), limits.max_body_bytes)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            data = await _read(receive, limits.max_body_bytes)
    except TimeoutError:
        raise SlowClientError(f"The request's body did not arrive within {limits.body_timeout_s:g} s.") from None
    if announced is not None and announced != len(data):
        raise InputError(f"The request's body has {len(data)} bytes, and was announced with {announced}.")
    return _parse(data)


def _length(value: bytes | None, max_bytes: int) -> int | None:
    if value is None:
        return None
    if not re.fullmatch(rb"\d{1,19}", value):
        raise InputError(f"The Content-Length {_shown(value)} is no length.")
    if int(value) > max_bytes:
        raise _too_large(max_bytes)
    return int(value)


async def _read(receive: Receive, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InputError("The client went away before its request was read.")
        chunk = message.get("body", b"")
        size_bytes += len(chunk)
        if size_bytes > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The request's body is over {max_bytes} bytes.", hint="Send less at a time.")


def _parse(data: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise InputError(f"The request's body is no JSON: {_why(error)}.") from None
    if not isinstance(parsed, dict):
        raise InputError(f"The request's body is a JSON {type(parsed).__name__}, not an object.")
    _check_depth(parsed)
    if _SURROGATE.search(data):
        try:
            json.dumps(parsed, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError("The request's body is no JSON: it has half of a surrogate pair.") from None
    return parsed


def _why(error: ValueError | RecursionError) -> str:
    """Return the mistake without quoting the body, and without advice for programmers of Python."""
    match error:
        case json.JSONDecodeError():
            what = error.msg.partition(" (")[0].removesuffix(" at")
            return f"{what} at line {error.lineno}, column {error.colno}"
        case UnicodeDecodeError():
            return f"byte {error.start} is not UTF-8"
        case RecursionError():
            return "it is nested too deep"
        case _RefusedValueError():
            return str(error)
    return f"it holds a whole number of more than {sys.get_int_max_str_digits()} digits"


class _RefusedValueError(ValueError):
    """JSON that Python reads, and that is refused."""


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _RefusedValueError("an object has a key twice")
    return made


def _no_constant(text: str) -> NoReturn:
    raise _RefusedValueError(f"it holds {text}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _RefusedValueError("it holds a number that is too large")
    return number


def _check_depth(parsed: dict[str, object]) -> None:
    if _is_deep(parsed):
        raise InputError(f"The request's body is nested deeper than {_MAX_DEPTH} levels.")


def _is_deep(parsed: object) -> bool:
    level = [parsed]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]
        if not level:
            return False
    return any(isinstance(one, dict | list) for one in level)


def _check_json_text(name: str, text: object, *, param: str) -> None:
    """Check the depth of a field that holds JSON as text, which vLLM parses; it refuses what is no JSON itself."""
    if not isinstance(text, str):
        return
    try:
        is_deep = _is_deep(json.loads(text))
    except RecursionError:
        is_deep = True
    except ValueError:
        return
    if is_deep:
        raise FieldError(f"The JSON in {name} is nested deeper than {_MAX_DEPTH} levels.", param=param)


def _inside(value: dict[str, object] | list[object]) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value


def check_shape(path: str, body: Mapping[str, object]) -> None:
    """Check the fields that the gateway relies on, and those that it must not let through; the engine checks the rest.

    Raises:
        InputError: a field is missing, of a wrong type or out of range, or not for clients.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise FieldError(
            "The request names no model.", param="model", hint="Set 'model'; GET /v1/models lists what there is."
        )
    if len(model) > _MAX_NAME_CHARS:
        raise FieldError(f"The model's name has {len(model)} characters; {_MAX_NAME_CHARS} is the most.", param="model")
    if path == "/v1/chat/completions":
        _check_messages(body.get("messages"))
    elif path == "/v1/completions":
        _check_prompt(body.get("prompt"))
    elif path == "/v1/embeddings":
        _check_input(body)
    for name in ("stream", "echo"):
        if not isinstance(body.get(name), bool | None):
            raise FieldError(f"{name!r} must be true or false.", param=name)
    for name in ("n", "best_of", "max_tokens", "max_completion_tokens"):
        value = body.get(name)
        least = 0 if name == "max_tokens" else 1
        if value is not None and (type(value) is not int or not least <= value < _MAX_INT):
            raise FieldError(f"{name!r} must be a whole number of {least} or more.", param=name)
    if isinstance(constraint := body.get("structured_outputs"), dict):
        _check_json_text("structured_outputs.json", constraint.get("json"), param="structured_outputs")
    if not isinstance(body.get("stream_options"), dict | None):
        raise FieldError("'stream_options' must be an object.", param="stream_options")
    forbidden = sorted(name for name in _ENGINE_FIELDS.intersection(body) if body[name] is not None)
    if forbidden:
        raise FieldError(f"{forbidden[0]!r} is not for clients to set.", param=forbidden[0], hint="Leave it out.")


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise FieldError("'messages' must be a list that is not empty.", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise FieldError(f"messages[{index}] must be an object with a 'role'.", param=f"messages[{index}]")
        _check_content(index, message.get("content"))
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                _check_json_text(
                    f"a tool call of messages[{index}]", function.get("arguments"), param=f"messages[{index}]"
                )


def _check_content(index: int, content: object) -> None:
    """Check that a message's content is a text, or a list of parts with texts; the engine judges other parts."""
    name = f"messages[{index}].content"
    if not isinstance(content, str | list | None):
        raise FieldError(f"{name} must be a text or a list of parts.", param=name)
    for number, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict | str):
            raise FieldError(f"{name}[{number}] must be an object.", param=f"{name}[{number}]")
        if isinstance(part, dict) and not isinstance(part.get("text"), str | None):
            raise FieldError(f"{name}[{number}].text must be a text.", param=f"{name}[{number}].text")


def _check_prompt(prompt: object) -> None:
    is_texts = isinstance(prompt, list) and bool(prompt) and all(isinstance(part, str) for part in prompt)
    is_ids = isinstance(prompt, list) and bool(prompt) and all(_is_tokens(part) for part in prompt)
    if not (isinstance(prompt, str) or _is_tokens(prompt) or is_texts or is_ids):
        raise FieldError("'prompt' must be a text, a list of token ids, or a list of such.", param="prompt")


def _check_input(body: Mapping[str, object]) -> None:
    """Check the input for vectors: texts or tokens.

    vLLM also takes chats, whose tokens can't be counted here, and bytes.
    """
    given = body.get("input")
    parts = given if isinstance(given, list) and given and not _is_tokens(given) else [given]
    if "messages" in body or not all((isinstance(part, str) and part) or _is_tokens(part) for part in parts):
        raise FieldError("'input' must be a text, a list of token ids, or a list of such.", param="input")
    if body.get("encoding_format") not in {None, "float", "base64"}:
        raise FieldError("'encoding_format' must be float or base64.", param="encoding_format")


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def bound_generation(path: str, body: dict[str, Any], limits: Limits) -> None:
    """Hold a request to the longest answer and the most answers; one that names no length gets the longest.

    Raises:
        InputError: it asks for more.
    """
    num_prompts = _num_prompts(body.get("prompt", body.get("input")))
    num_choices = num_prompts * max(body.get("n") or 1, body.get("best_of") or 1)
    if num_choices > limits.max_choices:
        raise FieldError(
            f"The request asks for {num_choices} answers ('n' or 'best_of' for each of {num_prompts} prompts); "
            f"{limits.max_choices} is the most.",
            param="best_of" if (body.get("best_of") or 1) > (body.get("n") or 1) else "n",
        )
    most = limits.max_completion_tokens
    if most is None or path == "/tokenize":
        return
    asked = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    for name in asked:
        if body[name] > most:
            raise FieldError(f"{name!r} is {body[name]}; {most} is the most.", param=name)
    if not asked:
        body["max_tokens"] = most


def _num_prompts(prompt: object) -> int:
    """Return the number of prompts: a list holds tokens, or prompts."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


def _shown(value: bytes) -> str:
    return repr(value[:80].decode("latin-1"))
