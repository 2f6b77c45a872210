"""The gate in front of a replica's HTTP app: only listed routes, every request tied to one version and told so.

A plain ASGI middleware (https://asgi.readthedocs.io). For a route that names a model it reads the body, resolves the
name, has the adapter loaded, puts the version's engine name into the body, and adds to the response

* ``x-llamafarm-model: name:version``,
* ``x-llamafarm-digest: sha256:...`` (the manifest's; absent for the base model) and
* ``x-llamafarm-variant: baseline`` or ``candidate``, while a rollout is under way for what the request named.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from llamafarm_ray.errors import InputError, LlamaFarmError, NotFoundError
from llamafarm_ray.serving.asgi import App, Message, Receive, Scope, Send
from llamafarm_ray.serving.resolution import Target
from llamafarm_ray.serving.rollouts.mirror import Mirror
from llamafarm_ray.serving.rollouts.split import Caller

__all__ = ["MODEL_ROUTES", "SESSION_HEADER", "Gate", "Models", "caller_of"]

MODEL_ROUTES = {"/v1/chat/completions", "/v1/completions", "/tokenize"}
"""The POST routes that name a model in their body. With ``/health`` and ``/v1/models`` they are all there are."""

SESSION_HEADER = "x-llamafarm-session"
"""The request header that names a session: a rollout gives all of its requests the same variant."""

_MAX_BODY_BYTES = 8 * 1024 * 1024
_SESSION_KEY = SESSION_HEADER.encode()
_TRUSTED_HEADER = re.compile(rb"(?i)serve[-_]multiplexed[-_]model[-_]id")


class Models(Protocol):
    """What the gate asks of its replica."""

    async def prepare(self, model: str, caller: Caller | None = None) -> Target:
        """Resolve a model and have it ready to answer.

        Args:
            model: what the request's body names; without a caller what the router decided (:attr:`Target.routed`).
            caller: who sent the request.
        """

    def names(self) -> list[str]:
        """The names a request may use."""


class Gate:
    """See the module's text.

    Args:
        app: the engine's own HTTP app.
        models: resolves and loads.
    """

    def __init__(self, app: App, models: Models) -> None:
        self._app = app
        self._models = models
        self._mirror = Mirror(app, models.prepare)
        self._started = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websocket is served
        route = (scope["method"], scope["path"])
        try:
            if route in {("GET", "/health"), ("HEAD", "/health")}:
                await self._app(scope, receive, send)
            elif route == ("GET", "/v1/models"):
                cards = [self._card(name) for name in self._models.names()]
                await _answer(send, 200, {"object": "list", "data": cards})
            elif scope["method"] == "GET" and scope["path"].startswith("/v1/models/"):
                name = scope["path"].removeprefix("/v1/models/")
                if name not in self._models.names():
                    raise NotFoundError(f"The model {name!r} does not exist.")
                await _answer(send, 200, self._card(name))
            elif scope["method"] == "POST" and scope["path"] in MODEL_ROUTES:
                await self._serve(scope, receive, send)
            else:
                raise NotFoundError(f"There is no route {scope['method']} {scope['path']}.")
        except LlamaFarmError as error:
            await _answer(send, error.http_status, _openai_error(error))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _parse(await _read(receive))
        routed, name = _routed_name(scope), body.get("model")
        if routed is not None:
            target = await self._models.prepare(routed)
        elif isinstance(name, str) and name:
            target = await self._models.prepare(name, caller_of(scope["headers"], body))
        else:
            raise InputError("The request names no model.", hint="Set 'model'; GET /v1/models lists what there is.")
        if target.shadow is not None:
            self._mirror.send(scope, body, target.shadow.engine_name)
        body["model"] = target.engine_name
        data = json.dumps(body).encode()
        headers = [(k, v) for k, v in scope["headers"] if k.lower() not in {b"content-length", b"transfer-encoding"}]
        headers.append((b"content-length", str(len(data)).encode()))
        told = [(b"x-llamafarm-model", target.ref.encode())]
        if target.digest is not None:
            told.append((b"x-llamafarm-digest", target.digest.encode()))
        if target.variant is not None:
            told.append((b"x-llamafarm-variant", target.variant.encode()))
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()  # from here on only the disconnect matters
            sent = True
            return {"type": "http.request", "body": data, "more_body": False}

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *told]}
            await send(message)

        await self._app({**scope, "headers": headers}, replay, tell)

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "llamafarm"}


def caller_of(headers: Iterable[tuple[bytes, bytes]], body: Mapping[str, Any]) -> Caller:
    """Who sent a request, as far as its headers and body say."""
    sessions = (bytes(value).decode("latin-1") for key, value in headers if key.lower() == _SESSION_KEY)
    user = body.get("user")
    return Caller(user if isinstance(user, str) else "", next(sessions, ""))


def _routed_name(scope: Scope) -> str | None:
    """The version the router chose, from the header that the proxy strips from clients' requests."""
    for key, value in scope["headers"]:
        if _TRUSTED_HEADER.fullmatch(key) and value:
            return bytes(value).decode("latin-1")
    return None


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InputError("The client went away before its request was read.")
        chunk = message.get("body", b"")
        size_bytes += len(chunk)
        if size_bytes > _MAX_BODY_BYTES:
            raise InputError(f"The request's body is over {_MAX_BODY_BYTES} bytes.", hint="Send less at a time.")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The request's body is no JSON: {error}.") from None
    if not isinstance(parsed, dict):
        raise InputError(f"The request's body is a JSON {type(parsed).__name__}, not an object.")
    return parsed


def _openai_error(error: LlamaFarmError) -> dict[str, Any]:
    """The error shape of https://platform.openai.com/docs/guides/error-codes."""
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"  # noqa: PLR2004
    return {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
