"""A shadow answers copies of requests: nobody waits for it, sees it, or is harmed by it."""

import asyncio
import contextlib
import json

import httpx
import pytest
from fake_gateway import telemetry

from llamafarm_ray.errors import NotFoundError
from llamafarm_ray.registry import RegistryState
from llamafarm_ray.serving.gateway.auth import Keys
from llamafarm_ray.serving.gateway.feedback import FeedbackLog
from llamafarm_ray.serving.gateway.gateway import Gateway
from llamafarm_ray.serving.rollouts.mirror import Mirror
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.routing.traffic_split import Variant
from llamafarm_ray.serving.telemetry.outcome import End
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest

DIGEST = Digest.of(b"x")
SHADOW = Target("bot:1.1.0#x", "bot:1.1.0", DIGEST, Variant.SHADOW, "bot@production#1")
BASELINE = Target("bot:1.0.0#x", "bot:1.0.0", DIGEST, Variant.BASELINE, "bot@production#1", SHADOW)


class Engine:
    """Records what it is asked; the shadow's answers wait until they are let go."""

    def __init__(self, fails=None):
        self.asked, self.num_dropped = [], 0
        self.go = asyncio.Event()
        self.fails = fails

    async def __call__(self, scope, receive, send):
        body = json.loads((await receive())["body"])
        self.asked.append((body["model"], body["prompt"], dict(scope["headers"])[b"content-length"]))
        if body["model"] == SHADOW.engine_name:
            await self.go.wait()
            if self.fails:
                raise self.fails
            self.num_dropped += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body["model"].encode()})


class Models:
    used = ()

    async def find(self, _model, _caller=None):
        return BASELINE

    @contextlib.asynccontextmanager
    async def use(self, target):
        self.used = (*self.used, target)
        yield

    def names(self):
        return []

    async def describe(self, _names):
        return {}


async def ask(client):
    return await client.post("/v1/completions", json={"model": "bot", "prompt": "hé"})


def client_of(engine, models=None, told=None):
    keys, feedback = Keys(RegistryState), FeedbackLog(Location("memory://mirror"))
    gateway = Gateway(engine, models or Models(), keys=keys, feedback=feedback, telemetry=told or telemetry())
    transport = httpx.ASGITransport(app=gateway)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.mark.parametrize("fails", [None, ValueError("broken")])
def test_the_baseline_answers_without_waiting_for_the_shadow(fails, caplog):
    told = telemetry()

    async def scenario():
        engine, models = Engine(fails), Models()
        async with client_of(engine, models, told) as client:
            answer = await asyncio.wait_for(ask(client), 5)  # the shadow is still at it
            await asyncio.sleep(0)
            engine.go.set()
            await asyncio.sleep(0.05)
        return engine, models, answer

    engine, models, answer = asyncio.run(scenario())
    assert (answer.text, answer.headers["x-llamafarm-variant"]) == (BASELINE.engine_name, "baseline")
    assert models.used == (BASELINE, SHADOW)
    assert sorted(engine.asked) == sorted(
        (name, "hé", str(len(json.dumps({"model": name, "prompt": "hé"}, ensure_ascii=False).encode())).encode())
        for name in (BASELINE.engine_name, SHADOW.engine_name)
    )
    assert engine.num_dropped == (0 if fails else 1)
    assert ("failed" in caplog.text) == bool(fails)
    assert "hé" not in caplog.text  # nothing of the prompt
    counters = told._meters.counters
    assert counters["llamafarm_requests_total", "answered", "bot:1.0.0", "baseline"] == 1
    assert counters["llamafarm_requests_total", "failed" if fails else "answered", "bot:1.1.0", "shadow"] == 1


def test_a_shadow_that_can_not_keep_up_gets_no_more_copies():
    ended = []

    async def scenario():
        engine = Engine()

        mirror = Mirror(engine, Models().use, ended.append, most_at_once=3)
        scope = {"type": "http", "headers": []}
        sent = [mirror.send(scope, {"prompt": n}, SHADOW) is not None for n in range(5)]
        engine.go.set()
        await asyncio.sleep(0.05)
        return sent, mirror.send(scope, {"prompt": 9}, SHADOW) is not None, engine.num_dropped

    assert asyncio.run(scenario()) == ([True, True, True, False, False], True, 3)
    assert [request.end for request in ended[:3]] == [End.ANSWERED] * 3


def test_a_shadow_that_can_not_be_loaded_is_told_to_the_log_and_counts_as_failed(caplog):
    ended = []

    async def scenario():
        @contextlib.asynccontextmanager
        async def use(target):
            raise NotFoundError(f"There is no {target.engine_name}.")
            yield

        Mirror(Engine(), use, ended.append).send({"headers": []}, {}, SHADOW)
        await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert "does not answer: There is no bot:1.1.0#x." in caplog.text
    assert [(request.target, request.end) for request in ended] == [(SHADOW, End.FAILED)]
