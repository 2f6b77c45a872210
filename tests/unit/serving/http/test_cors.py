"""Pages of other origins, and those that make their own name point here, get nothing of a server without keys."""

import asyncio
import socket

import httpx
import pytest
from fake_gateway import ANN, CHAT, Server, is_openai_error, keyed_state

from llamafarm_ray.serving.gateway.gateway import FEEDBACK_ROUTE, MODEL_ROUTES
from llamafarm_ray.serving.http.cors import for_web_pages

ORIGIN = "https://chat.example.com"
OURS = [
    "localhost",
    "localhost:8000",
    "LocalHost.",
    "app.localhost",
    "127.0.0.1:8000",
    "192.168.1.7",
    "[::1]:8000",
    "[2001:db8::1]",
    "api:8000",
    "host.docker.internal:8000",
    "serve.models.svc.cluster.local",
    "laptop.local",
    socket.gethostname(),
]
OTHERS = [
    "attacker.example",
    "attacker.example:8000",
    "localhost.attacker.example",
    "127.0.0.1.attacker.example",
    "attacker.example.",
    "internal.attacker.example",
    "local.example",
    ".example",
    "[attacker.example]",
    "localhost@attacker.example",
    "localhost,attacker.example",
    "localhost:8000:9",
    "localhost/",
    "",
]


def ask(server, host, path="/v1/models", **options):
    return server.request("GET", path, headers={"Host": host}, **options)


@pytest.mark.parametrize("host", OURS)
def test_a_server_without_keys_answers_to_names_that_no_strangers_page_has(host):
    assert ask(Server(), host).status_code == 200


@pytest.mark.parametrize("host", OTHERS)
@pytest.mark.parametrize("required", [None, False])
def test_a_server_without_keys_answers_to_no_name_that_a_page_can_have(host, required):
    server = Server(required=required)
    response = ask(server, host)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "host_not_allowed")
    assert is_openai_error(response)
    for route in (*MODEL_ROUTES, FEEDBACK_ROUTE):
        assert server.post(route, CHAT, headers={"Host": host}).status_code == 403
    assert server.engine.seen == []


def test_who_sends_no_name_is_no_browser():
    async def scenario():
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [], "query_string": b""}
        await Server().gateway(scope, None, send)
        return sent[0]["status"]

    assert asyncio.run(scenario()) == 200


def test_a_key_is_asked_for_under_any_name_and_opens_under_any_name():
    server = Server(state=keyed_state())
    assert ask(server, "models.example.com").status_code == 401
    assert ask(server, "models.example.com", key=ANN).status_code == 200


@pytest.mark.parametrize(
    ("allowed", "status"),
    [(("models.example.com",), 200), (("Models.Example.COM",), 200), (("*",), 200), (("a",), 403)],
)
def test_further_names_are_listed(allowed, status):
    assert ask(Server(allowed_hosts=allowed), "models.example.com:8000").status_code == status


def test_health_is_told_under_any_name():
    assert ask(Server(), "attacker.example", "/health").status_code == 200


def from_page(server, method, origins, **headers):
    """What a browser hears that sends a page's request, or asks whether it may."""

    async def once():
        transport = httpx.ASGITransport(app=for_web_pages(server.gateway, origins))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            sent = {"origin": ORIGIN, **headers}
            return await client.request(method, "/v1/chat/completions", headers=sent, json=CHAT)

    return asyncio.run(once())


PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


def test_without_origins_no_page_is_allowed_anything():
    server = Server()
    assert for_web_pages(server.gateway, ()) is server.gateway
    asked = from_page(server, "OPTIONS", (), **PREFLIGHT)
    assert asked.status_code == 404
    for response in (asked, from_page(server, "POST", ())):
        assert not any(name.startswith("access-control") for name in response.headers)


def test_a_listed_origin_may_ask_and_read_which_version_answered():
    server = Server()
    asked = from_page(server, "OPTIONS", (ORIGIN,), **PREFLIGHT)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert server.engine.seen == []
    answered = from_page(server, "POST", (ORIGIN,))
    assert answered.status_code == 200
    assert answered.headers["access-control-allow-origin"] == ORIGIN
    assert "x-llamafarm-model" in answered.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answered.headers


def test_another_origin_than_the_listed_may_not():
    server = Server()
    asked = from_page(server, "OPTIONS", ("https://other.example.com",), **PREFLIGHT)
    assert asked.status_code == 400
    assert "access-control-allow-origin" not in asked.headers
    assert "access-control-allow-origin" not in from_page(server, "POST", ("https://other.example.com",)).headers


def test_a_page_needs_a_key_as_everybody_does_and_can_read_that():
    server = Server(state=keyed_state())
    refused = from_page(server, "POST", (ORIGIN,))
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)
    assert from_page(server, "POST", (ORIGIN,), authorization=f"Bearer {ANN}").status_code == 200
