"""A client that leaves stops the engine, whether its answer was to come whole or as a stream."""

import asyncio
import json

import pytest
from fake_gateway import CHAT, ONE, Engine, Server
from patience import patience

from llamafarm_ray.serving.routing.resolution import Target

ROUTE = "/v1/chat/completions"


class Leaving:
    """A client that sends one request and leaves when it is told to, as Ray Serve passes that on.

    Args:
        is_told: True if the app may receive that the client left; the request's task is cancelled in any case.
        **fields: of the request.
    """

    def __init__(self, *, is_told=True, **fields):
        self.body = json.dumps({**CHAT, **fields}).encode()
        self.is_told = is_told
        self.sent = []
        self.left = asyncio.Event()

    async def receive(self):
        if self.body:
            body, self.body = self.body, b""
            return {"type": "http.request", "body": body}
        await self.left.wait()
        return {"type": "http.disconnect"} if self.is_told else await asyncio.Future()

    async def send(self, message):
        self.sent.append(message)

    async def leave(self, task):
        self.left.set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, patience(1))

    def ask(self, server):
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": ROUTE, "headers": headers, "query_string": b""}
        return asyncio.create_task(server.gateway(scope, self.receive, self.send))


async def until(holds):
    async with asyncio.timeout(patience(1)):
        while not holds():  # noqa: ASYNC110  (an engine tells nobody)
            await asyncio.sleep(0)


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_the_engine_stops_within_a_second_and_nothing_has_failed(stream, is_told):
    async def scenario():
        server, client = Server(engine=Engine(seconds=60)), Leaving(stream=stream, is_told=is_told)
        task = client.ask(server)
        await until(lambda: server.engine.num_running == 1)
        await client.leave(task)
        await until(lambda: server.engine.num_running == 0)
        return server, client

    server, client = asyncio.run(scenario())
    assert client.sent == []
    counted = {key[1]: n for key, n in server.meters.counters.items() if key[0] == "llamafarm_requests_total"}
    assert counted == {"cancelled": 1}


def test_a_turn_is_given_back_once_the_engine_has_stopped():
    async def scenario():
        server, client = Server(engine=Engine(seconds=60)), Leaving()
        task = client.ask(server)
        await until(lambda: server.engine.num_running == 1)
        free = server.gateway._turns._num_free
        await client.leave(task)
        return free, server.gateway._turns._num_free, server.engine.num_running

    before, after, running = asyncio.run(scenario())
    assert (after, running) == (before + 1, 0)


def test_the_shadows_copy_stops_with_the_request():
    shadow = Target(ref="team/tuned:1.0.0", engine_name=f"team/tuned:1.0.0#{ONE.short}", digest=ONE)

    async def scenario():
        server, client = Server(engine=Engine(seconds=60)), Leaving()
        server.models.shadow = shadow
        task = client.ask(server)
        await until(lambda: server.engine.num_running == 2)
        await client.leave(task)
        await until(lambda: server.engine.num_running == 0)

    asyncio.run(scenario())


def test_an_answer_that_is_out_already_stays_answered():
    async def scenario():
        server, client = Server(), Leaving()
        task = client.ask(server)
        await task
        client.left.set()
        return server, client

    server, client = asyncio.run(scenario())
    assert client.sent[0]["status"] == 200
    assert sum(n for key, n in server.meters.counters.items() if "answered" in key) == 1
