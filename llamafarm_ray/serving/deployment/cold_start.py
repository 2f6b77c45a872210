"""Cold starts: requests that may start a replica, the limit of those that wait, and their time.

HAProxy sends what it has no replica for to Ray Serve's own proxy on the head node. That queues it for the first replica
there is, and its queue is what starts one where an application is scaled to zero. :class:`WaitingRoom` stands before
that proxy, as a middleware that Serve takes from ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``. It answers what needs
no replica (``/health``, ``/v1/models``), asks for the key, and takes away the router's header, which HAProxy does only
where there is a router to ask. All else is up to the gateway of the replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

import ray
from ray.exceptions import RayError
from starlette.middleware import Middleware

from llamafarm_ray.errors import LlamaFarmError, NotFoundError
from llamafarm_ray.registry.remote.view import RegistryView
from llamafarm_ray.serving.engines.app import ROUTES
from llamafarm_ray.serving.gateway.auth import Keys
from llamafarm_ray.serving.gateway.gateway import FEEDBACK_ROUTE, MODEL_ROUTES, OPEN_ROUTES
from llamafarm_ray.serving.gateway.model_list import ModelList
from llamafarm_ray.serving.http.asgi import App, Message, Receive, Scope, Send, answer, refuse
from llamafarm_ray.serving.http.cors import for_web_pages
from llamafarm_ray.serving.http.errors import BodyTooLargeError, ColdStartError
from llamafarm_ray.serving.routing.resolution import served_models
from llamafarm_ray.serving.routing.signed_header import ROUTED_HEADER
from llamafarm_ray.serving.selection.application_settings import ApplicationSettings
from llamafarm_ray.serving.selection.catalog import ModelCatalog
from llamafarm_ray.serving.selection.latencies import Latencies
from llamafarm_ray.serving.selection.model_selection import Offer
from llamafarm_ray.types import Digest

__all__ = ["Room", "WaitingRoom", "middlewares"]

_REPLICA = "SERVE_REPLICA::"
_STARTING_ROUTES = {*MODEL_ROUTES, *ROUTES, FEEDBACK_ROUTE}
_LOOK_AGAIN_S = 2.0
"""Seconds between two look-ups of the applications while requests come here."""
_RETRY_S = 10.0
"""``Retry-After`` in seconds for clients: an engine takes from ten seconds to minutes to start."""
_UNMEASURED = Latencies()
_MAX_HELD_BYTES = 256 * 1024 * 1024
"""Beyond this no more is read of the bodies of those that wait."""


def middlewares() -> list[Middleware]:
    """Return the middleware for Serve's proxy. Serve also asks for that of replicas' own servers, which need none."""
    name = ray.get_runtime_context().get_actor_name() or ""
    return [] if name.startswith(_REPLICA) else [Middleware(WaitingRoom)]


class WaitingRoom:
    """ASGI middleware before Serve's proxy; applications that are not ours pass.

    Args:
        find: gives the settings of our applications by route prefix; may block.
    """

    def __init__(self, app: App, find: Callable[[], dict[str, ApplicationSettings]] | None = None) -> None:
        self._app = app
        self._find = find or _settings_by_route
        self._rooms: dict[str, Room] = {}
        self._looked = float("-inf")
        self._looking = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Serve's own routes
            await self._app(scope, receive, send)
            return
        try:
            room = await self._room(scope["path"])
        except ColdStartError as error:
            await refuse(send, error)
            return
        await (room.app if room is not None else self._app)(scope, receive, send)

    async def _room(self, path: str) -> Room | None:
        async with self._looking:
            if time.monotonic() - self._looked > _LOOK_AGAIN_S:
                await self._look()
        fitting = [prefix for prefix in self._rooms if path == prefix or path.startswith(prefix.rstrip("/") + "/")]
        return self._rooms.get(max(fitting, key=len, default=""))

    async def _look(self) -> None:
        try:
            found = await asyncio.to_thread(self._find)
            rooms = {}
            for prefix, settings in found.items():
                room = self._rooms.get(prefix)
                if room is None or room.settings != settings:
                    room = Room(self._app, prefix, settings, await _follow(settings["home"]))
                rooms[prefix] = room
        except RayError as error:
            if not self._rooms:
                raise ColdStartError(f"The applications can't be looked up: {error}.", retry_after_s=_RETRY_S) from None
            return  # what is known stands
        gone = [room for prefix, room in self._rooms.items() if rooms.get(prefix) is not room]
        self._rooms, self._looked = rooms, time.monotonic()
        for room in gone:
            await room.view.stop()


class Room:
    """Waiting requests of one application."""

    def __init__(self, proxy: App, prefix: str, settings: ApplicationSettings, view: RegistryView) -> None:
        self.settings = settings
        self.view = view
        self.app = for_web_pages(self._handle, settings["allowed_origins"])
        self._proxy = proxy
        self._prefix = prefix.rstrip("/")
        self._keys = Keys(lambda: view.state, required=settings["require_key"], allowed_hosts=settings["allowed_hosts"])
        name, digest = settings["base_name"], Digest(settings["base_digest"])
        self._models = ModelList(lambda: served_models(view.state, base_name=name, base_digest=digest), self._describe)
        self._offers = ModelCatalog(name, digest, kinds=())  # what the engine answers is known once it runs
        self._num_waiting = 0
        self._num_bytes = 0
        self.has_space = asyncio.Event()
        """True if more of the bodies of waiting requests is read."""
        self.has_space.set()

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except LlamaFarmError as error:
            await refuse(send, error)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"].removeprefix(self._prefix)
        if (method, path) in OPEN_ROUTES:
            await answer(send, 200, {})
            return
        tenant = self._keys.tenant(scope["headers"])
        if self._models.is_for(method, path):
            await self._models.answer(path, tenant, send)
        elif method == "POST" and path in _STARTING_ROUTES:
            headers = [header for header in scope["headers"] if _plain(header[0]) != ROUTED_HEADER]
            self._check_length(headers)
            await self._wait({**scope, "headers": headers}, receive, send)
        else:
            raise NotFoundError(f"There is no route {method[:20]} {path[:120]!r}.")

    async def _describe(self, names: Iterable[str]) -> dict[str, Offer]:
        """Return the registry's description of models; without a replica there are no measurements."""
        return self._offers.of(names, self.view.state, _UNMEASURED)

    def _check_length(self, headers: list[tuple[bytes, bytes]]) -> None:
        length = dict(headers).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.settings["max_body_bytes"]:
            raise BodyTooLargeError(
                f"The body has {int(length):,} bytes, more than {self.settings['max_body_bytes']:,}."
            )

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and see to it that its answer begins in time."""
        if self._num_waiting >= self.settings["max_requests"]:
            raise ColdStartError(f"{self._num_waiting} requests wait already for a replica.", retry_after_s=_RETRY_S)
        held = _Held(self, receive, send)
        answering = asyncio.ensure_future(self._proxy(scope, held.receive, held.send))
        beginning = asyncio.ensure_future(held.begun.wait())
        self._num_waiting += 1
        timeout_s = self.settings["timeout_s"]
        try:
            await asyncio.wait({answering, beginning}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            answering.cancel()
            raise
        finally:
            self._num_waiting -= 1
            beginning.cancel()
            held.forget()
        if not answering.done() and not held.begun.is_set():
            held.is_over = True
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering
            raise ColdStartError(f"No replica could answer within {timeout_s:g} s.", retry_after_s=_RETRY_S)
        await answering

    def hold(self, num_bytes: int) -> None:
        """Count bytes of bodies that are held, or with a negative number no longer are."""
        self._num_bytes += num_bytes
        if self._num_bytes < _MAX_HELD_BYTES:
            self.has_space.set()
        else:
            self.has_space.clear()


class _Held:
    """Both ends of a request that waits."""

    def __init__(self, room: Room, receive: Receive, send: Send) -> None:
        self._room = room
        self._receive = receive
        self._send = send
        self._num_bytes = 0
        self.begun = asyncio.Event()
        """Set once the answer begins."""
        self.is_over = False
        """True once the rest of the proxy's message belongs to no request."""

    async def receive(self) -> Message:
        if self.begun.is_set():
            return await self._receive()
        if self._num_bytes > self._room.settings["max_body_bytes"]:
            await self.begun.wait()  # the gateway refuses what is too large, in its words
        await self._room.has_space.wait()
        message = await self._receive()
        if not self.begun.is_set():
            num_bytes = len(message.get("body", b""))
            self._num_bytes += num_bytes
            self._room.hold(num_bytes)
        return message

    async def send(self, message: Message) -> None:
        if not self.is_over:
            self.begun.set()
            await self._send(message)

    def forget(self) -> None:
        """Release the body: the replica has it, or the client is gone."""
        self._room.hold(-self._num_bytes)
        self._num_bytes = 0


def _plain(name: bytes) -> bytes:
    return name.lower().replace(b"-", b"_")


def _settings_by_route() -> dict[str, ApplicationSettings]:
    from llamafarm_ray.serving.ray_serve.state import settings_by_route  # Serve is being imported when this is

    return settings_by_route()


async def _follow(home: str) -> RegistryView:
    view = await asyncio.to_thread(RegistryView, home)
    await view.start()
    return view
