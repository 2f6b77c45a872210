"""A chat endpoint on loopback that answers after a fixed time, and fails where it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

__all__ = ["FixedLatency", "in_thread", "serving"]


@dataclass
class FixedLatency:
    """The endpoint.

    Args:
        latency_s: from a request to the end of its answer.
        first_s: from a request to the first token of a stream.
        fault: called with the number of a request (0 the first); returns its fault, or nothing.
            ``500``: that status; ``cut``: the stream breaks off; ``error``: an error inside the stream;
            ``hang``: no answer; ``garbage``: no JSON; ``empty``: an answer without tokens.
        stall: start and end in seconds since the first request; what comes in between is answered as if it came
            at the end.
    """

    latency_s: float = 0.01
    first_s: float = 0.005
    fault: Callable[[int], str] = lambda _: ""
    stall: tuple[float, float] = (0.0, 0.0)
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    _begun_s: float | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        came_s = loop.time()
        body = await request.json()
        number = len(self.asked)
        self.asked.append(body)
        self._begun_s = came_s if self._begun_s is None else self._begun_s
        start, end = (self._begun_s + one for one in self.stall)
        counted_s = end if start <= came_s < end else came_s
        fault = self.fault(number)
        if fault == "hang":
            await asyncio.sleep(30)
        if fault == "500":
            return web.json_response({"error": {"message": "overloaded"}}, status=500)
        if not body.get("stream"):
            await _until(counted_s + self.latency_s)
            message = {"role": "assistant", "content": f"answer {number}"}
            return web.json_response({"model": "bot:1.0.0#d", "choices": [{"message": message}], "usage": USAGE})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await _event(response, {"model": "bot:1.0.0#d", "choices": [{"delta": {"role": "assistant", "content": ""}}]})
        await _until(counted_s + self.first_s)
        if fault == "garbage":
            await response.write(b"data: {oops\n\n")
            return response
        if fault == "error":
            await _event(response, {"error": {"message": "engine died"}})
            return response
        if fault != "empty":
            await _event(response, {"choices": [{"delta": {"content": f"answer {number}"}}]})
        if fault == "cut":
            return response
        await _until(counted_s + self.latency_s)
        usage = {"completion_tokens": 0} if fault == "empty" else USAGE
        await _event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


USAGE = {"completion_tokens": 7}


async def _until(when_s: float) -> None:
    await asyncio.sleep(max(0.0, when_s - asyncio.get_running_loop().time()))


async def _event(response: web.StreamResponse, value: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(value).encode() + b"\n\n")


@asynccontextmanager
async def serving(endpoint: FixedLatency) -> AsyncIterator[FixedLatency]:
    """Serve on a free port of this loop."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", endpoint.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


@contextmanager
def in_thread(endpoint: FixedLatency) -> Iterator[FixedLatency]:
    """Serve from a thread of its own."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    over = asyncio.Event()

    async def work() -> None:
        async with serving(endpoint):
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(work()))
    thread.start()
    try:
        assert ready.wait(60)
        yield endpoint
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(60)
        loop.close()
