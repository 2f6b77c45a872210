"""A collector is told of each request: its version, its tokens, how it ended, and whose trace it is part of."""

import asyncio
import json
import subprocess
import sys
import threading
import time

import pytest
from fake_gateway import BOT, CHAT, ONE, Engine, Models, Server, keyed_state
from otlp import collecting
from patience import patience

from llamafarm_ray.config import Limits
from llamafarm_ray.serving.adapters.desired_state import Need
from llamafarm_ray.serving.adapters.pool import AdapterPool
from llamafarm_ray.serving.adapters.protocols import Room
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.routing.traffic_split import Variant
from llamafarm_ray.serving.selection.model_selection import Offer
from llamafarm_ray.serving.telemetry.tracing import Tracing, open_tracing, tracing_environment
from llamafarm_ray.telemetry.traces import traces_endpoint

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PROMPT = "my pin is 4711"
COMPLETE = {"model": "bot", "prompt": PROMPT, "max_tokens": 5, "temperature": 0.5, "stream": True}
SERVER, INTERNAL = 2, 1


@pytest.fixture
def collector(monkeypatch):
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "llamafarm")
    with collecting() as running:
        yield running


def traced(collector, path, body, *, headers=None, log_prompts=False, **options):
    """One request to a gateway that traces: the server, the response, and the spans."""
    tracing = open_tracing(collector.url, log_prompts=log_prompts)
    server = Server(tracing=tracing, log_prompts=log_prompts, **options)
    try:
        response = server.post(path, body, headers=headers)
    finally:
        asyncio.run(tracing.close())
    return server, response, collector.spans


def test_a_request_is_a_span_with_its_version_and_its_tokens(collector):
    _, response, (span,) = traced(collector, "/v1/completions", COMPLETE)
    assert response.status_code == 200
    assert (span.name, span.kind, span.is_error) == ("text_completion bot", SERVER, False)
    assert span.resource["service.name"] == "llamafarm"
    assert 0 < span.attributes.pop("gen_ai.response.time_to_first_chunk") < 5
    assert span.attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "llamafarm",
        "gen_ai.request.model": "bot",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stream": True,
        "gen_ai.response.model": BOT,
        "gen_ai.usage.input_tokens": 4,
        "gen_ai.usage.output_tokens": 5,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/completions",
        "llamafarm.digest": ONE,
        "llamafarm.version": "bot:1.0.0",
    }
    assert span.events == ["turn at the engine"]


def test_a_request_that_is_sent_on_is_no_error_and_did_not_reach_the_engine(collector, monkeypatch):
    elsewhere = [Offer("poet", "poet:2.0.0", ("chat",), ("rhymes",), base_url="/large/v1")]

    async def offers(_models, _caller, _headers):
        return elsewhere

    monkeypatch.setattr(Models, "offers", offers)
    _, response, (span,) = traced(
        collector, "/v1/chat/completions", {**CHAT, "model": "auto"}, headers={"x-llamafarm-task": "rhymes"}
    )
    assert response.status_code == 307
    assert (span.name, span.is_error, span.events) == ("chat auto", False, [])
    assert span.attributes["llamafarm.version"] == "poet:2.0.0"
    assert span.attributes["http.response.status_code"] == 307


def test_a_rollouts_side_is_part_of_the_span(collector):
    decided = f"{BOT};{Variant.CANDIDATE};bot@production#1"
    _, _, (span,) = traced(collector, "/v1/chat/completions", CHAT, headers={"serve_multiplexed_model_id": decided})
    assert span.name == "chat bot"
    assert span.attributes["llamafarm.variant"] == "candidate"
    assert span.attributes["llamafarm.rollout"] == "bot@production#1"


def test_a_trace_goes_on_from_the_client_to_the_engine(collector):
    sent = {"traceparent": PARENT, "tracestate": "shop=1"}
    server, _, (span,) = traced(collector, "/v1/completions", COMPLETE, headers=sent)
    _, trace, parent, _ = PARENT.split("-")
    assert (span.trace, span.parent) == (trace, parent)
    (seen,) = server.engine.seen
    assert seen.headers[b"traceparent"].decode() == f"00-{trace}-{span.span}-01"
    assert seen.headers[b"tracestate"] == b"shop=1"


@pytest.mark.parametrize("header", ["nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff-1-2-3"])
def test_a_trace_header_that_is_none_begins_a_trace(collector, header):
    _, response, (span,) = traced(collector, "/v1/completions", COMPLETE, headers={"traceparent": header})
    assert response.status_code == 200
    assert span.parent == ""
    assert int(span.trace, 16) > 0


def test_what_the_client_does_not_want_sampled_is_not_sent(collector):
    sent = {"traceparent": PARENT[:-2] + "00"}
    server, response, spans = traced(collector, "/v1/completions", COMPLETE, headers=sent)
    assert (response.status_code, spans) == (200, [])
    assert server.engine.seen[0].headers[b"traceparent"].endswith(b"-00")


@pytest.mark.parametrize("asked", [True, False])
def test_the_prompt_is_told_only_where_that_was_asked_for(collector, asked):
    _, _, (span,) = traced(collector, "/v1/completions", COMPLETE, log_prompts=asked)
    assert (PROMPT in repr(span)) == asked
    assert ("gen_ai.input.messages" in span.attributes) == asked


@pytest.mark.parametrize(
    ("path", "fields", "parts"),
    [
        ("/v1/completions", {"prompt": PROMPT}, [{"type": "text", "content": PROMPT}]),
        ("/v1/completions", {"prompt": ["a", "b"]}, [{"type": "text", "content": ["a", "b"]}]),
        ("/v1/chat/completions", {}, [{"type": "text", "content": "A llama?"}]),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            [{"type": "text", "text": "a"}],
        ),
    ],
)
def test_a_prompt_is_told_in_messages_of_parts(collector, path, fields, parts):
    body = {**(CHAT if "chat" in path else {"model": "bot"}), **fields}
    _, _, (span,) = traced(collector, path, body, log_prompts=True)
    assert json.loads(span.attributes["gen_ai.input.messages"]) == [{"role": "user", "parts": parts}]


def test_what_is_not_sent_yet_is_sent_when_the_replica_shuts_down(collector):
    async def scenario():
        server = Server(tracing=open_tracing(collector.url))
        async with server.client() as client:
            await client.post("/v1/completions", json=COMPLETE)
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive():
            return next(messages)

        async def send(_message):
            pass

        await server.gateway({"type": "lifespan"}, receive, send)

    asyncio.run(scenario())
    assert [span.name for span in collector.spans] == ["text_completion bot"]


class Failing(Engine):
    async def _answer(self, *_):
        raise RuntimeError("the engine is dead")


@pytest.mark.parametrize(
    ("fields", "options", "error", "status", "is_error"),
    [
        ({"model": "nope"}, {}, "model_not_found", 404, False),
        ({"n": 0}, {}, "invalid_input", 400, False),
        ({}, {"engine": Failing()}, "RuntimeError", 500, True),
    ],
)
def test_what_went_wrong_is_told_and_is_an_error_where_it_is_ours(collector, fields, options, error, status, is_error):
    try:
        traced(collector, "/v1/completions", {**COMPLETE, **fields}, **options)
    except RuntimeError:
        assert is_error
    (span,) = collector.spans
    assert span.attributes["error.type"] == error
    assert span.attributes["http.response.status_code"] == status
    assert span.is_error == is_error
    assert PROMPT not in repr(span)


def test_who_is_refused_at_the_door_and_who_counts_tokens_makes_no_span(collector):
    _, refused, spans = traced(collector, "/v1/completions", COMPLETE, state=keyed_state())
    assert (refused.status_code, spans) == (401, [])
    _, counted, spans = traced(collector, "/tokenize", {"model": "bot", "prompt": "a"})
    assert (counted.status_code, spans) == (200, [])


def test_a_load_is_part_of_the_request_that_waits_for_it(collector, tmp_path):
    class Loading:
        def check_adapter(self, _name):
            pass

        async def load_adapter(self, _name, _folder):
            pass

        async def pull(self, _target):
            return tmp_path

        def release(self, _target):
            pass

        def loaded(self, _ref, _num_loaded):
            pass

    async def scenario():
        tracing, all_of_it = open_tracing(collector.url), Loading()
        pool = AdapterPool(all_of_it, all_of_it, Room(), need=lambda _: Need.NONE, watch=all_of_it, tracing=tracing)
        target = Target(BOT, "bot:1.0.0", ONE)
        with tracing.request({"method": "POST", "path": "/v1/completions", "headers": []}):
            for _ in range(2):
                async with pool.use(target):
                    pass
        await tracing.close()

    asyncio.run(scenario())
    by_name = {span.name: span for span in collector.spans}
    assert len(collector.spans) == len(by_name) == 3
    request, load, pull = (by_name[name] for name in ("text_completion", "load adapter", "pull adapter"))
    assert load.parent == pull.parent == request.span
    assert load.kind == pull.kind == INTERNAL
    assert load.attributes == {"llamafarm.version": "bot:1.0.0", "llamafarm.digest": ONE}


@pytest.mark.parametrize("collector_is", ["gone", "silent"])
def test_no_request_waits_for_a_collector_and_what_it_does_not_take_is_dropped(monkeypatch, collector_is):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    answers = threading.Event()
    with collecting(answers=answers) as collector:
        url = collector.url if collector_is == "silent" else "http://127.0.0.1:1/v1/traces"
        tracing = open_tracing(url)
        server = Server(tracing=tracing, limits=Limits())
        begun = time.perf_counter()

        async def scenario():
            async with server.client() as client:
                for _ in range(100):
                    response = await client.post("/v1/completions", json={**COMPLETE, "stream": False})
                    assert response.status_code == 200
            requests_s = time.perf_counter() - begun
            (processor,) = tracing._provider._active_span_processor._span_processors
            assert len(processor._batch_processor._queue) == 20
            await tracing.close()
            return requests_s, time.perf_counter() - begun - requests_s

        requests_s, closing_s = asyncio.run(scenario())
        assert collector.spans == []
    assert requests_s < patience(5)
    assert closing_s < patience(4)


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported():
    code = (
        "import sys; from llamafarm_ray.serving.telemetry import tracing; tracing.open_tracing(None);"
        "import llamafarm_ray.serving.gateway.gateway, llamafarm_ray.serving.adapters.pool;"
        "print(*[name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_untraced_requests_reach_the_engine_with_the_clients_own_trace():
    assert type(open_tracing(None)) is Tracing
    server = Server()
    server.post("/v1/completions", COMPLETE, headers={"traceparent": PARENT})
    assert server.engine.seen[0].headers[b"traceparent"].decode() == PARENT


@pytest.mark.parametrize(
    ("configured", "environment", "endpoint"),
    [
        (None, {}, None),
        ("http://a/v1/traces", {}, "http://a/v1/traces"),
        ("http://a/v1/traces", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/t"}, "http://a/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/t"}, "http://b/t"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        (
            None,
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "http://c:4317",
        ),
        ("http://a/v1/traces", {"OTEL_SDK_DISABLED": "TRUE"}, None),
    ],
)
def test_the_endpoint_is_the_configured_one_or_that_of_the_standard_variables(configured, environment, endpoint):
    assert traces_endpoint(configured, environment) == endpoint


def test_vllm_is_told_the_same_protocol_and_name():
    assert tracing_environment(None, {"OTEL_SERVICE_NAME": "shop"}) == {}
    assert tracing_environment("http://a", {}) == {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "llamafarm",
    }
    told = tracing_environment("http://a", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_SERVICE_NAME": "shop"})
    assert told == {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_SERVICE_NAME": "shop"}
