"""Copies of requests for a shadow, which answers beside the baseline; its answers are dropped."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.serving.http.asgi import App, Message, Scope
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.telemetry.outcome import End, FinishedRequest, ResponseWatch
from llamafarm_ray.serving.telemetry.token_usage import Usage, UsageMeter

__all__ = ["Mirror"]

logger = logging.getLogger(__name__)

_MOST_AT_ONCE = 32
_OF_THE_ORIGINAL = {b"content-length", b"transfer-encoding", b"x-request-id"}
"""Headers that a copy must not have; an id twice would be one request to the engine."""


class Mirror:
    """Sends copies of requests to an engine's app and drops the answers.

    Args:
        use: has a version ready for the time of a block.
        on_finished: called with each copy that the shadow is done with, one that it could not be loaded for too.
        most_at_once: greatest number of copies under way. Further ones are not sent: a slow shadow must not
            take the engine from those who wait for answers.
    """

    def __init__(
        self,
        app: App,
        use: Callable[[Target], AbstractAsyncContextManager[None]],
        on_finished: Callable[[FinishedRequest], object],
        *,
        most_at_once: int = _MOST_AT_ONCE,
    ) -> None:
        self._app = app
        self._use = use
        self._on_finished = on_finished
        self._most_at_once = most_at_once
        self._under_way: set[asyncio.Task[None]] = set()

    def send(self, scope: Scope, body: Mapping[str, object], shadow: Target) -> asyncio.Event | None:
        """Start a copy of a request.

        Args:
            body: its body, as parsed from JSON.
            shadow: version that gets the copy.

        Returns:
            an event to set when the request's client leaves, which stops the copy; ``None`` if there was no room.
        """
        if len(self._under_way) >= self._most_at_once:
            return None
        left = asyncio.Event()
        task = asyncio.create_task(self._answer(dict(scope), {**body, "model": shadow.engine_name}, shadow, left))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return left

    async def _answer(self, scope: Scope, body: Mapping[str, object], shadow: Target, left: asyncio.Event) -> None:
        data = json.dumps(body, ensure_ascii=False).encode()
        headers = [(k, v) for k, v in scope["headers"] if k.lower() not in _OF_THE_ORIGINAL]
        scope["headers"] = [*headers, (b"content-length", str(len(data)).encode())]
        unread = [data]

        async def receive() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def drop(_message: Message) -> None:
            pass

        usage, watch = Usage(0), ResponseWatch(drop, left.is_set)
        try:
            async with self._use(shadow):
                await self._app(scope, receive, UsageMeter(watch, usage, hide=False))
        except LlamaFarmError as error:
            logger.warning("The shadow %s does not answer: %s", shadow.ref, error)
            self._on_finished(FinishedRequest(shadow, End.FAILED, latency_s=0))
            return
        except Exception:  # a task's end: nobody else would hear of it
            logger.exception("The shadow %s failed.", shadow.ref)
        self._on_finished(watch.finished(shadow, usage))
