"""Only listed routes answer, each request is tied to one version, and the response says which."""

import asyncio
import logging

import httpx
import pytest
from fake_gateway import BOT, CHAT, ONE, Engine, Server

from llamafarm_ray.config import Limits
from llamafarm_ray.serving.gateway import prompt_length
from llamafarm_ray.serving.gateway.gateway import MODEL_ROUTES
from llamafarm_ray.serving.routing.traffic_split import Caller, Variant


def body_for(route, **fields):
    """The least that a route takes."""
    return {"model": "bot", **({"prompt": "é"} if route != "/v1/chat/completions" else CHAT), **fields}


@pytest.mark.parametrize("route", sorted(MODEL_ROUTES))
def test_the_engine_sees_the_versions_own_name_and_the_client_is_told(route):
    server = Server()
    response = server.post(route, body_for(route, n=1))
    (seen,) = server.engine.seen
    assert (seen.path, seen.body) == (route, {**body_for(route, n=1), "model": BOT})
    assert response.headers["x-llamafarm-model"] == "bot:1.0.0"
    assert response.headers["x-llamafarm-digest"] == ONE


@pytest.mark.parametrize("path", sorted(MODEL_ROUTES))
def test_the_version_is_kept_loaded_until_the_answers_end(path):
    kept = []

    class Watching(Engine):
        async def _answer(self, *args):
            kept.append(dict(server.models.in_use))
            await super()._answer(*args)
            kept.append(dict(server.models.in_use))

    server = Server(engine=Watching(), limits=Limits(max_prompt_tokens=9))
    assert server.post(path, body_for(path, stream=True)).status_code == 200
    assert kept
    assert all(names == {BOT: 1} for names in kept)
    assert server.models.in_use == {BOT: 0}


def test_the_base_has_no_digest_header():
    response = Server().post("/v1/completions", {"model": "tiny", "prompt": ""})
    assert response.headers["x-llamafarm-model"] == "tiny"
    assert "x-llamafarm-digest" not in response.headers


def test_a_rollouts_variant_is_told_and_nothing_where_there_is_none():
    server = Server()
    assert "x-llamafarm-variant" not in server.post("/v1/completions", body_for("x")).headers
    server.models.variant = Variant.CANDIDATE
    assert server.post("/v1/completions", body_for("x")).headers["x-llamafarm-variant"] == "candidate"


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
    server = Server()
    server.post("/v1/completions", body_for("x", **body), headers=headers)
    assert server.models.callers == [caller]


def test_what_the_router_decided_is_not_decided_again():
    server = Server()
    decided = f"{BOT};candidate;bot@production#1"
    response = server.post(
        "/v1/completions", body_for("x", user="ann"), headers={"serve_multiplexed_model_id": decided}
    )
    assert (server.models.found, server.models.callers) == ([decided], [None])
    assert response.headers["x-llamafarm-variant"] == "candidate"


def test_the_routers_choice_counts_more_than_the_body():
    server = Server()
    body = {"model": "bot@production", "prompt": ""}
    server.post("/v1/completions", body, headers={"serve_multiplexed_model_id": BOT})
    assert server.models.found == [BOT]


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
        ("GET", "/v1/feedback"),
    ],
)
def test_whatever_is_not_listed_does_not_exist(method, path):
    server = Server()
    response = server.request(method, f"http://localhost{path}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
    assert server.engine.seen == []


def test_an_unknown_model_is_a_404_that_names_it():
    response = Server().post("/v1/completions", {"model": "nope", "prompt": ""})
    assert response.status_code == 404
    assert "'nope'" in response.json()["error"]["message"]


def test_the_models_are_listed_and_found():
    server = Server()
    listed = [card["id"] for card in server.request("GET", "/v1/models").json()["data"]]
    team = ["team/bot", "team/bot:1.0.0", "team/tuned", "team/tuned:1.0.0"]
    assert listed == ["tiny", "bot", "bot@production", "bot:1.0.0", *team]
    assert server.request("GET", "/v1/models/bot").json()["id"] == "bot"
    assert server.request("GET", "/v1/models/team%2Fbot").json()["id"] == "team/bot"
    assert server.request("GET", "/v1/models/nope").status_code == 404


def test_health_is_the_engines_own():
    server = Server()
    server.request("GET", "/health")
    assert [seen.path for seen in server.engine.seen] == ["/health"]


def test_each_request_has_an_id_of_its_own_whatever_the_client_says():
    server = Server()
    sent = {"x-request-id": "mine"}
    answers = [server.post("/v1/completions", body_for("x"), headers=sent) for _ in range(2)]
    ids = {answer.headers["x-llamafarm-request-id"] for answer in answers}
    assert len(ids) == 2
    assert {seen.headers[b"x-request-id"].decode() for seen in server.engine.seen} == ids


def test_only_the_headers_that_the_engine_needs_reach_it():
    server = Server()
    sent = {"x-data-parallel-rank": "3", "authorization": "Bearer x", "cookie": "a=b", "traceparent": "00-1-2-00"}
    server.post("/v1/completions?priority=1", body_for("x"), headers=sent)
    (seen,) = server.engine.seen
    assert set(seen.headers) <= {
        *(b"accept", b"content-type", b"host", b"user-agent", b"traceparent"),
        *(b"content-length", b"x-request-id"),
    }
    assert seen.headers[b"traceparent"] == b"00-1-2-00"


def test_a_stream_arrives_as_the_engine_sent_it():
    response = Server().post("/v1/completions", body_for("x", stream=True, max_tokens=3))
    events = [line for line in response.text.splitlines() if line.startswith("data: ")]
    assert len(events) == 4
    assert events[-1] == "data: [DONE]"
    assert "usage" not in response.text


def test_a_stream_has_its_usage_where_that_was_asked_for():
    body = body_for("x", stream=True, max_tokens=3, stream_options={"include_usage": True})
    response = Server().post("/v1/completions", body)
    assert '"completion_tokens": 3' in response.text


@pytest.mark.parametrize(("asked", "logged"), [(True, True), (False, False)])
def test_prompts_are_logged_only_where_that_was_asked_for(caplog, asked, logged):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="ray.serve.llamafarm")  # a deployment in this process sets its parent's
    prompt = "my pin is 4711"
    server = Server(log_prompts=asked)
    server.post("/v1/completions", body_for("x", prompt=prompt))
    server.post("/v1/completions", body_for("x", prompt=prompt, n="no number"))
    server.post("/v1/completions", b'{"prompt": "' + prompt.encode())
    assert (prompt in caplog.text) == logged


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
def test_a_prompt_that_is_too_long_is_refused_by_the_engines_own_count(route):
    server = Server(limits=Limits(max_prompt_tokens=3))
    long = "one two three four"
    fields = {"messages": [{"role": "user", "content": long}]} if "chat" in route else {"prompt": long}
    response = server.post(route, body_for(route, **fields))
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "The prompt has 4 tokens; 3 is the most. Shorten it."
    assert {seen.path for seen in server.engine.seen} == {"/tokenize"}
    assert server.post(route, body_for(route)).status_code == 200


@pytest.mark.parametrize("messages", [["x"], [{"content": "x"}], [{"role": "user"}], "x", [None]])
def test_messages_of_another_shape_are_the_engines_to_refuse(messages):
    assert list(prompt_length._texts({"model": "bot", "messages": messages})) == []


@pytest.mark.parametrize(
    ("prompt", "status"),
    [([1, 2, 3], 200), ([1, 2, 3, 4], 400), (["a b c", "d"], 200), (["a", "b c d e"], 400), ([[1], [1, 2, 3, 4]], 400)],
)
def test_each_of_several_prompts_is_counted(prompt, status):
    server = Server(limits=Limits(max_prompt_tokens=3))
    assert server.post("/v1/completions", body_for("x", prompt=prompt)).status_code == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"prompt": ["a"] * 4}, 200),
        ({"prompt": ["a"] * 5}, 400),
        ({"prompt": ["a"] * 2, "n": 3}, 400),
        ({"prompt": [[1]] * 5}, 400),
        ({"prompt": [1] * 5}, 200),
    ],
)
def test_each_prompt_of_a_list_asks_for_answers(fields, status):
    server = Server(limits=Limits(max_choices=4))
    assert server.post("/v1/completions", body_for("x", **fields)).status_code == status


@pytest.mark.parametrize(
    ("fields", "status", "reaches"),
    [
        ({}, 200, {"max_tokens": 8}),
        ({"max_tokens": 5}, 200, {"max_tokens": 5}),
        ({"max_completion_tokens": 8}, 200, {"max_completion_tokens": 8}),
        ({"max_tokens": 9}, 400, None),
        ({"max_tokens": 1, "max_completion_tokens": 9}, 400, None),
        ({"n": 4}, 200, {"n": 4, "max_tokens": 8}),
        ({"n": 5}, 400, None),
        ({"best_of": 5}, 400, None),
    ],
)
def test_an_answer_is_as_long_as_is_allowed(fields, status, reaches):
    server = Server(limits=Limits(max_completion_tokens=8, max_choices=4))
    assert server.post("/v1/completions", body_for("x", **fields)).status_code == status
    got = [seen.body for seen in server.engine.seen]
    assert got == ([{**body_for("x"), **reaches, "model": BOT}] if reaches else [])


def test_what_waits_to_be_kept_is_kept_when_the_replica_shuts_down(tmp_path):
    server = Server(home=str(tmp_path))
    server.feedback._linger_s = 60.0
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def scenario():
        adding = asyncio.create_task(server.feedback.add({"said": "good"}))
        await asyncio.sleep(0)

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message["type"])

        await server.gateway({"type": "lifespan"}, receive, send)
        await adding

    asyncio.run(scenario())
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert len(list(tmp_path.rglob("*.jsonl"))) == 1


def test_no_websocket_is_served():
    server, sent = Server(), []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    asyncio.run(server.gateway({"type": "websocket", "path": "/v1/chat/completions", "headers": []}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_an_application_below_a_prefix_knows_its_routes():
    server = Server()

    async def ask():
        transport = httpx.ASGITransport(app=server.gateway, root_path="/llama")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            listed = await client.get("/llama/v1/models")
            answered = await client.post("/llama/v1/chat/completions", json=CHAT)
            return listed, answered

    listed, answered = asyncio.run(ask())
    assert (listed.status_code, answered.status_code) == (200, 200)
    assert server.engine.seen[0].path == "/v1/chat/completions"
