"""Each request that reached the engine is told of once: whose it was, how it ended, how long and how much it took."""

import asyncio
import collections
import datetime as dt
import json

import pytest
import virtual_time
from counting_meters import CountingMeters
from fake_gateway import BOT, CHAT, Engine, Server, event, start, telemetry

from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.routing.traffic_split import Variant
from llamafarm_ray.serving.telemetry.metrics import OTHER
from llamafarm_ray.serving.telemetry.outcome import End, FinishedRequest, ResponseWatch
from llamafarm_ray.serving.telemetry.token_usage import Usage
from llamafarm_ray.telemetry.catalog import SERVING as METERS
from llamafarm_ray.telemetry.meters import RayMeters

COMPLETE = {"model": "bot", "prompt": "one two three", "max_tokens": 5}
TARGET = Target("bot:1.0.0#x", "bot:1.0.0")
ROLLOUT = f"{BOT};candidate;bot@production#1"


def ends(server):
    return {key[1:]: count for key, count in server.meters.counters.items() if key[0] == "llamafarm_requests_total"}


class Broken(Engine):
    """Does something else than answer."""

    def __init__(self, *messages, fails=None):
        super().__init__()
        self.messages, self.fails = messages, fails

    async def _answer(self, _path, _body, send):
        for message in self.messages:
            await send(message)
        if self.fails:
            raise self.fails


def whole(status):
    return (
        {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]},
        {"type": "http.response.body", "body": b"{}"},
    )


def stream(*events, is_whole=True):
    return (
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]},
        *({"type": "http.response.body", "body": one, "more_body": True} for one in events),
        *([{"type": "http.response.body", "body": b"data: [DONE]\n\n"}] if is_whole else ()),
    )


def error_event(code):
    return b"data: " + json.dumps({"error": {"message": "no", "type": "x", "code": code}}).encode() + b"\n\n"


def test_an_answer_is_told_with_its_version_and_its_tokens():
    server = Server()
    server.post("/v1/completions", COMPLETE)
    assert ends(server) == {("answered", "bot:1.0.0", "none"): 1}
    assert server.meters.counters["llamafarm_prompt_tokens_total", "bot:1.0.0"] == 3
    assert server.meters.counters["llamafarm_completion_tokens_total", "bot:1.0.0"] == 5
    (latency,) = server.meters.observed["llamafarm_latency_seconds", "bot:1.0.0"]
    assert 0 < latency < 5
    assert "llamafarm_time_to_first_token_seconds" not in {name for name, *_ in server.meters.observed}


def test_a_stream_has_a_time_to_its_first_token_and_gaps_between_the_others():
    class Slow(Engine):
        async def _answer(self, _path, _body, send):
            await start(send, b"text/event-stream")
            for number in range(3):
                await asyncio.sleep(0.05)
                await event(send, {"choices": [{"text": f" {number}"}]})
            await event(send, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 3}})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    server = Server(engine=Slow())
    server.post("/v1/completions", {**COMPLETE, "stream": True})
    (first,) = server.meters.observed["llamafarm_time_to_first_token_seconds", "bot:1.0.0"]
    (gap,) = server.meters.observed["llamafarm_inter_token_seconds", "bot:1.0.0"]
    (latency,) = server.meters.observed["llamafarm_latency_seconds", "bot:1.0.0"]
    assert 0.04 < first < latency
    assert gap == pytest.approx((latency - first) / 2)


@pytest.mark.parametrize(
    ("engine", "end"),
    [
        (Broken(*whole(500)), "failed"),
        (Broken(*whole(503)), "failed"),
        (Broken(*whole(400)), "refused"),
        (Broken(*whole(200)), "answered"),
        (Broken(*stream(b'data: {"choices": []}\n\n')), "answered"),
        (Broken(*stream(b'data: {"choices": []}\n\n', is_whole=False)), "failed"),
        (Broken(*stream(b'data: {"choices": []}\n\n' + error_event(500))), "failed"),
        (Broken(*stream(error_event(400))), "refused"),
        (Broken(*stream(b'data: {"error": "odd"}\n\n')), "failed"),
        (Broken(), "failed"),
    ],
)
def test_what_came_of_a_request_is_known(engine, end):
    server = Server(engine=engine)
    try:
        server.post("/v1/completions", {**COMPLETE, "stream": True})
    except AssertionError:
        assert not engine.messages or engine.messages[-1].get("more_body")  # httpx, of what never ended
    assert ends(server) == {(end, "bot:1.0.0", "none"): 1}
    errors = server.meters.counters["llamafarm_errors_total", "bot:1.0.0", "none"]
    assert errors == (end == "failed")


def test_an_engine_that_raises_has_failed():
    server = Server(engine=Broken(fails=RuntimeError("the engine is dead")))
    with pytest.raises(RuntimeError, match="the engine is dead"):
        server.post("/v1/completions", COMPLETE)
    assert ends(server) == {("failed", "bot:1.0.0", "none"): 1}


def test_who_leaves_has_cancelled_and_is_no_failure():
    async def scenario():
        server = Server(engine=Engine(seconds=30))
        body = json.dumps(COMPLETE).encode()
        messages = [{"type": "http.request", "body": body}]

        async def receive():
            if messages:
                return messages.pop()
            await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(_message):
            raise AssertionError("nobody is there to be answered")

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers, "query_string": b""}
        await server.gateway(scope, receive, send)
        return server

    assert ends(asyncio.run(scenario())) == {("cancelled", "bot:1.0.0", "none"): 1}


@pytest.mark.parametrize("leaves", ["before the answer", "while it is sent"])
def test_an_answer_that_nobody_hears_is_cancelled(leaves):
    """vLLM answers who left with an empty 200; other servers raise when they send."""

    async def send(message):
        if leaves == "while it is sent" and message["type"] == "http.response.body":
            raise OSError("the connection is closed")

    async def scenario():
        watch = ResponseWatch(send, lambda: leaves == "before the answer")
        try:
            for message in whole(200):
                await watch(message)
        except OSError:
            pass
        return watch.finished(TARGET, Usage(0)).end

    assert asyncio.run(scenario()) is End.CANCELLED


def test_counting_tokens_and_asking_for_models_is_no_answer():
    server = Server()
    server.post("/tokenize", {"model": "bot", "prompt": "a"})
    server.request("GET", "/v1/models")
    server.post("/v1/completions", {**COMPLETE, "model": "nope"})
    assert ends(server) == {}


def test_a_rollouts_requests_are_counted_for_it_too():
    server = Server()
    server.telemetry.windows._clock = clock = lambda: clock.now
    clock.now = 1000.0
    server.post("/v1/chat/completions", CHAT, headers={"serve_multiplexed_model_id": ROLLOUT})
    server.post("/v1/chat/completions", CHAT)
    clock.now = 1001.0
    report = server.telemetry.windows.report("bot@production#1", dt.datetime.fromtimestamp(0, dt.UTC))
    assert [(window.candidate.requests, window.baseline.requests) for window in report.windows] == [(1, 0)]
    assert ends(server) == {("answered", "bot:1.0.0", "candidate"): 1, ("answered", "bot:1.0.0", "none"): 1}


def test_the_queue_is_told_when_it_changes():
    async def scenario():
        from llamafarm_ray.config import Limits

        server = Server(engine=Engine(seconds=0.05), limits=Limits(running_requests=1))
        lengths = []
        server.meters.set = lambda name, value, _labels: lengths.append((name, value))
        async with server.client() as client:
            await asyncio.gather(*(client.post("/v1/completions", json=COMPLETE) for _ in range(3)))
        return lengths

    lengths = asyncio.run(scenario())
    assert {name for name, _ in lengths} == {"llamafarm_queue_length"}
    assert max(value for _, value in lengths) == 2
    assert lengths[-1] == ("llamafarm_queue_length", 0)


def test_versions_beyond_the_most_share_a_label():
    meters = CountingMeters()
    told = telemetry(meters, max_versions=2)
    for number in (1, 2, 3, 4, 1):
        target = Target(f"bot:{number}.0.0#x", f"bot:{number}.0.0", variant=Variant.BASELINE, rollout="r")
        told.finished(FinishedRequest(target, End.ANSWERED, 0.1))
    told.loaded("bot:9.0.0", 3)
    told.unloaded("bot:1.0.0", 2, "room")
    assert meters.counters == {
        ("llamafarm_requests_total", "answered", "bot:1.0.0", "baseline"): 2,
        ("llamafarm_requests_total", "answered", "bot:2.0.0", "baseline"): 1,
        ("llamafarm_requests_total", "answered", OTHER, "baseline"): 2,
        ("llamafarm_adapter_loads_total", OTHER): 1,
        ("llamafarm_adapter_evictions_total", "bot:1.0.0", "room"): 1,
    }
    assert meters.gauges == {
        ("llamafarm_adapters_loaded",): 2,
        ("llamafarm_queue_length",): 0,
        ("llamafarm_registry_reachable",): 1,
    }


def test_ray_has_a_metric_for_each_that_is_listed():
    made = RayMeters(METERS)
    assert set(made._metrics) == {meter.name for meter in METERS}
    for meter in METERS:
        metric = made._metrics[meter.name]
        assert (type(metric).__name__.lower(), metric._tag_keys) == (meter.kind, meter.labels)
        assert bool(meter.bounds) == (meter.kind == "histogram")
        assert meter.name.endswith("_total") == (meter.kind == "counter")


def test_gauges_are_there_from_the_start_and_said_again_for_as_long_as_the_replica_lives(monkeypatch):
    said = collections.Counter()

    class Gauge:
        def __init__(self, name, **_):
            self.name = name

        def set(self, value, tags):  # noqa: ARG002
            said[self.name, value] += 1

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)

    async def rest(seconds):
        meters = RayMeters(METERS)
        told = telemetry(meters)
        told.loaded("bot:1.0.0", 3)
        said.clear()
        keeping = asyncio.create_task(meters.keep_gauges())
        await asyncio.sleep(seconds)
        keeping.cancel()

    virtual_time.run(rest(300))
    assert set(said) == {
        ("llamafarm_queue_length", 0),
        ("llamafarm_adapters_loaded", 3),
        ("llamafarm_registry_reachable", 1),
    }
    assert min(said.values()) >= 10, "Ray shows a gauge for a minute"
