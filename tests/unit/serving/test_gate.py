"""Only listed routes answer, each request is tied to one version, and the response says which."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from llamafarm_ray.errors import NotFoundError
from llamafarm_ray.serving.gate import MODEL_ROUTES, Gate
from llamafarm_ray.serving.resolution import Target
from llamafarm_ray.serving.rollouts import Caller, Variant
from llamafarm_ray.types import Digest

DIGEST = Digest.of(b"x")
BOT = Target(f"bot:1.0.0#{DIGEST.short}", "bot:1.0.0", DIGEST)


class Models:
    def __init__(self):
        self.prepared = []
        self.callers = []

    async def prepare(self, model, caller=None):
        self.prepared.append(model)
        self.callers.append(caller)
        if model == "bot@canary":
            return replace(BOT, variant=Variant.CANDIDATE, rollout="bot@canary#1")
        if model == "tiny":
            return Target("tiny", "tiny")
        if model.startswith("bot"):
            return BOT
        raise NotFoundError(f"The model {model!r} does not exist.")

    def names(self):
        return ["tiny", "bot"]


async def engine(scope, receive, send):
    """Echo what reaches the engine."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    length = dict(scope["headers"]).get(b"content-length", b"")
    answer = json.dumps({"path": scope["path"], "body": body.decode(), "length": length.decode()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": answer})


def request(method, path, models=None, **options):
    async def scenario():
        transport = httpx.ASGITransport(app=Gate(engine, models or Models()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(scenario())


@pytest.mark.parametrize("route", sorted(MODEL_ROUTES))
def test_the_engine_sees_the_versions_own_name_and_the_client_is_told(route):
    response = request("POST", route, json={"model": "bot", "prompt": "é", "n": 1})
    seen = response.json()
    assert json.loads(seen["body"]) == {"model": BOT.engine_name, "prompt": "é", "n": 1}
    assert int(seen["length"]) == len(seen["body"].encode())
    assert response.headers["x-llamafarm-model"] == "bot:1.0.0"
    assert response.headers["x-llamafarm-digest"] == DIGEST


def test_the_base_has_no_digest_header():
    response = request("POST", "/v1/completions", json={"model": "tiny", "prompt": ""})
    assert response.headers["x-llamafarm-model"] == "tiny"
    assert "x-llamafarm-digest" not in response.headers


def test_a_rollouts_variant_is_told_and_nothing_where_there_is_none():
    told = request("POST", "/v1/completions", json={"model": "bot@canary"})
    assert told.headers["x-llamafarm-variant"] == "candidate"
    told = request("POST", "/v1/completions", json={"model": "bot"}, headers={"x-llamafarm-variant": "candidate"})
    assert "x-llamafarm-variant" not in told.headers


@pytest.mark.parametrize(
    ("body", "headers", "caller"),
    [
        ({"user": "ann"}, {}, Caller("ann")),
        ({}, {"X-LlamaFarm-Session": "7"}, Caller(session="7")),
        ({"user": "ann"}, {"x-llamafarm-session": "7"}, Caller("ann", "7")),
        ({"user": 7}, {}, Caller()),
    ],
)
def test_who_asks_is_read_from_the_body_and_the_session_header(body, headers, caller):
    models = Models()
    request("POST", "/v1/completions", models, json={"model": "bot", **body}, headers=headers)
    assert models.callers == [caller]


def test_what_the_router_decided_is_not_decided_again():
    models = Models()
    headers = {"serve_multiplexed_model_id": "bot:1.0.0#abc;candidate;bot@production#1"}
    request("POST", "/v1/completions", models, json={"model": "bot", "user": "ann"}, headers=headers)
    assert (models.prepared, models.callers) == (["bot:1.0.0#abc;candidate;bot@production#1"], [None])


def test_the_routers_choice_counts_more_than_the_body():
    models = Models()
    headers = {"serve_multiplexed_model_id": BOT.engine_name}
    request("POST", "/v1/completions", models, json={"model": "bot@production"}, headers=headers)
    assert models.prepared == [BOT.engine_name]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/metrics"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/adapters"),
        ("POST", "/sleep"),
        ("POST", "/collective_rpc"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/models"),
        ("POST", "/v1/chat/completions/"),
        ("DELETE", "/v1/models/bot"),
        ("POST", "//v1/chat/completions"),
    ],
)
def test_whatever_is_not_listed_does_not_exist(method, path):
    response = request(method, path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[1]", "list"),
        (b"{}", "names no model"),
        (b'{"model": 5}', "names no model"),
        (b'{"model": ""}', "names no model"),
        (b"[" * 100000, "no JSON"),
        (b" " * (8 * 1024 * 1024 + 1), "over 8388608 bytes"),
    ],
)
def test_a_bad_body_gets_an_openai_shaped_error(content, says):
    response = request("POST", "/v1/chat/completions", content=content)
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_is_a_404_that_names_it():
    response = request("POST", "/v1/chat/completions", json={"model": "nope"})
    assert response.status_code == 404
    assert "'nope'" in response.json()["error"]["message"]


def test_the_models_are_listed_and_found():
    assert [card["id"] for card in request("GET", "/v1/models").json()["data"]] == ["tiny", "bot"]
    assert request("GET", "/v1/models/bot").json()["id"] == "bot"
    assert request("GET", "/v1/models/nope").status_code == 404


def test_health_is_the_engines_own():
    assert request("GET", "/health").json()["path"] == "/health"
