"""Requests while no replica runs wait within bounds, and only for who may use the application."""

import asyncio
import types

import httpx
import pytest
from fake_gateway import ANN, BASE, CHAT, GONE, is_openai_error, keyed_state, models_state
from ray.exceptions import RayError

from llamafarm_ray.config import Limits
from llamafarm_ray.serving.deployment import cold_start
from llamafarm_ray.serving.deployment.adapter_manager import Served
from llamafarm_ray.serving.deployment.cold_start import WaitingRoom
from llamafarm_ray.serving.http.asgi import answer

ROUTED = "serve_multiplexed_model_id"


class Proxy:
    """Serve's proxy: answers once a replica is there, and remembers what came through."""

    def __init__(self):
        self.seen, self.queries, self.num_cancelled = [], [], 0
        self.is_there = asyncio.Event()

    async def __call__(self, scope, receive, send):
        headers = dict(scope["headers"])
        try:
            body = b""
            while (message := await receive())["type"] == "http.request":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            await self.is_there.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        self.seen.append((scope["path"], headers, body))
        self.queries.append(scope["query_string"])
        await answer(send, 200, {"said": len(body)})


class Sleeping:
    """An application at ``/`` without a replica, and the room before it."""

    def __init__(self, monkeypatch, *, state=None, prefix="/", require_key=None, origins=(), **limits):
        self.stopped = []

        async def stop():
            self.stopped.append(view)

        view = types.SimpleNamespace(state=state or models_state(), stop=stop)

        async def follow(home):
            assert home == "memory://home"
            return view

        monkeypatch.setattr(cold_start, "_follow", follow)
        served = Served(
            "memory://home", "tiny", BASE, require_key=require_key, limits=Limits(**limits), allowed_origins=origins
        )
        self.applications = {prefix: served.cold_start()["llamafarm"]}
        self.proxy = Proxy()
        self.room = WaitingRoom(self.proxy, lambda: self.applications)

    def client(self, key=None):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.room), base_url="http://test", headers=headers, timeout=30
        )


def run(make):
    return asyncio.run(make())


def test_the_first_requests_wait_until_a_replica_is_there(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch)
        async with sleeping.client() as client:
            asked = [asyncio.create_task(client.post("/v1/chat/completions", json=CHAT)) for _ in range(5)]
            await asyncio.sleep(0.05)
            assert not any(one.done() for one in asked)
            sleeping.proxy.is_there.set()
            assert {(await one).status_code for one in asked} == {200}
        assert len(sleeping.proxy.seen) == 5

    run(story)


def test_beyond_the_bound_requests_are_refused_as_openai_does_and_others_go_on_waiting(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch, cold_start_requests=2)
        async with sleeping.client() as client:
            waiting = [asyncio.create_task(client.post("/v1/completions", json=CHAT)) for _ in range(2)]
            await asyncio.sleep(0.05)
            refused = await client.post("/v1/completions", json=CHAT)
            assert refused.status_code == 503
            assert is_openai_error(refused)
            assert refused.json()["error"]["code"] == "model_starting"
            assert int(refused.headers["retry-after"]) >= 1
            sleeping.proxy.is_there.set()
            assert [(await one).status_code for one in waiting] == [200, 200]
            assert (await client.post("/v1/completions", json=CHAT)).status_code == 200

    run(story)


def test_who_waited_for_too_long_is_refused_and_waits_for_nothing_any_more(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch, cold_start_timeout_s=0.05, cold_start_requests=1)
        async with sleeping.client() as client:
            for _ in range(3):
                refused = await client.post("/v1/completions", json=CHAT)
                assert refused.status_code == 503
                assert "0.05 s" in refused.json()["error"]["message"]
                assert "retry-after" in refused.headers
        assert sleeping.proxy.num_cancelled == 3

    run(story)


def test_an_answer_that_has_begun_may_take_its_time(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch, cold_start_timeout_s=0.05)

        async def slow(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.sleep(0.2)
            await send({"type": "http.response.body", "body": b"whole"})

        sleeping.room._app = slow  # before it is looked for
        async with sleeping.client() as client:
            assert (await client.post("/v1/completions", json=CHAT)).text == "whole"

    run(story)


@pytest.mark.parametrize(("key", "status"), [(None, 401), (GONE, 401), ("lfr_made_up", 401)])
def test_who_has_no_key_starts_nothing(monkeypatch, key, status):
    async def story():
        sleeping = Sleeping(monkeypatch, state=keyed_state())
        async with sleeping.client(key) as client:
            refused = await client.post("/v1/chat/completions", json=CHAT)
            assert (await client.get("/v1/models")).status_code == status
        assert refused.status_code == status
        assert is_openai_error(refused)
        assert sleeping.proxy.seen == []

    run(story)


def test_health_and_the_list_of_models_start_nothing(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch, state=keyed_state())
        async with sleeping.client() as client:
            assert (await client.get("/health")).status_code == 200
        async with sleeping.client(ANN) as client:
            listed = await client.get("/v1/models")
            assert {"tiny", "bot", "bot@production"} <= {card["id"] for card in listed.json()["data"]}
            bot = (await client.get("/v1/models/bot")).json()
            assert (bot["id"], bot["llamafarm"]["version"], bot["llamafarm"]["latency_ms"]) == (
                "bot",
                "bot:1.0.0",
                None,
            )
            assert (await client.get("/v1/models/nope")).status_code == 404
        assert sleeping.proxy.seen == []

    run(story)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/docs"), ("POST", "/v1/load_lora_adapter"), ("GET", "/v1/completions"), ("POST", "/")]
)
def test_routes_that_do_not_exist_start_nothing(monkeypatch, method, path):
    async def story():
        sleeping = Sleeping(monkeypatch)
        async with sleeping.client() as client:
            refused = await client.request(method, path)
        assert refused.status_code == 404
        assert is_openai_error(refused)
        assert sleeping.proxy.seen == []

    run(story)


def test_what_another_application_sent_on_waits_too_and_is_to_stay_when_a_replica_is_there(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch, prefix="/llama")
        async with sleeping.client() as client:
            asked = asyncio.create_task(client.post("/llama/v1/chat/completions?auto=within", json=CHAT))
            await asyncio.sleep(0.05)
            assert not asked.done()
            sleeping.proxy.is_there.set()
            assert (await asked).status_code == 200
        assert sleeping.proxy.queries == [b"auto=within"]

    run(story)


@pytest.mark.parametrize("spelling", [ROUTED, ROUTED.upper(), ROUTED.replace("_", "-")])
def test_the_routers_header_is_taken_away(monkeypatch, spelling):
    async def story():
        sleeping = Sleeping(monkeypatch)
        sleeping.proxy.is_there.set()
        async with sleeping.client() as client:
            await client.post("/v1/completions", json=CHAT, headers={spelling: "bot:1.0.0", "accept": "a/b"})
        ((_, headers, _),) = sleeping.proxy.seen
        assert not [name for name in headers if name.lower().replace(b"-", b"_") == ROUTED.encode()]
        assert headers[b"accept"] == b"a/b"

    run(story)


def test_a_body_that_is_too_large_is_not_held(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch, max_body_bytes=1024)
        async with sleeping.client() as client:
            refused = await client.post("/v1/completions", content=b"x" * 2000)
        assert refused.status_code == 413
        assert sleeping.proxy.seen == []

    run(story)


def test_a_body_without_a_length_is_read_no_further_than_its_bound_while_it_waits(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch, max_body_bytes=1024, cold_start_timeout_s=0.2)
        num_sent = 0

        async def endless():
            nonlocal num_sent
            while True:
                num_sent += 1
                yield b"x" * 512
                await asyncio.sleep(0)

        async with sleeping.client() as client:
            assert (await client.post("/v1/completions", content=endless())).status_code == 503
        assert num_sent <= 4

    run(story)


def test_what_all_of_them_hold_is_bounded_too(monkeypatch):
    async def story():
        monkeypatch.setattr(cold_start, "_MAX_HELD_BYTES", 2000)
        sleeping = Sleeping(monkeypatch, cold_start_timeout_s=5)
        async with sleeping.client() as client:
            asked = [asyncio.create_task(client.post("/v1/completions", content=b"x" * 1500)) for _ in range(3)]
            await asyncio.sleep(0.05)
            (room,) = sleeping.room._rooms.values()
            assert room._num_bytes <= 3000
            sleeping.proxy.is_there.set()
            answers = [await one for one in asked[:2]]
            assert [one.json()["said"] for one in answers] == [1500, 1500]
            assert (await asked[2]).json()["said"] == 1500
            assert room._num_bytes == 0

    run(story)


def test_other_applications_and_serves_own_routes_pass(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch, prefix="/llama")
        sleeping.proxy.is_there.set()
        async with sleeping.client() as client:
            assert (await client.get("/other/v1")).status_code == 200
            assert (await client.get("/-/healthz")).status_code == 200
            assert (await client.get("/llamas")).status_code == 200
            assert (await client.get("/llama/v1")).status_code == 404
            assert (await client.post("/llama/v1/completions", json=CHAT)).status_code == 200
        assert [path for path, _, _ in sleeping.proxy.seen] == [
            "/other/v1",
            "/-/healthz",
            "/llamas",
            "/llama/v1/completions",
        ]

    run(story)


def test_while_serve_can_not_be_asked_what_is_known_stands(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch)
        sleeping.proxy.is_there.set()
        applications = sleeping.applications

        def dead():
            raise RayError("the controller is dead")

        sleeping.room._find = dead
        async with sleeping.client() as client:
            assert (await client.post("/v1/completions", json=CHAT)).status_code == 503
            sleeping.room._find = lambda: applications
            assert (await client.post("/v1/completions", json=CHAT)).status_code == 200
            sleeping.room._find, sleeping.room._looked = dead, float("-inf")
            assert (await client.post("/v1/completions", json=CHAT)).status_code == 200

    run(story)


def test_an_application_that_was_deployed_anew_has_its_new_bounds(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch)
        sleeping.proxy.is_there.set()
        async with sleeping.client() as client:
            assert (await client.post("/v1/completions", json=CHAT)).status_code == 200
            sleeping.applications = {"/": {**sleeping.applications["/"], "max_requests": 0}}
            sleeping.room._looked = float("-inf")
            assert (await client.post("/v1/completions", json=CHAT)).status_code == 503
        assert len(sleeping.stopped) == 1

    run(story)


def test_web_pages_that_may_ask_are_told_so_without_a_replica(monkeypatch):
    async def story():
        sleeping = Sleeping(monkeypatch, state=keyed_state(), origins=("https://chat.example.com",))
        asked = {"origin": "https://chat.example.com", "access-control-request-method": "POST"}
        async with sleeping.client() as client:
            response = await client.options("/v1/chat/completions", headers=asked)
            assert response.status_code == 200
            refused = await client.post("/v1/chat/completions", json=CHAT, headers={"origin": asked["origin"]})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == asked["origin"]
        assert sleeping.proxy.seen == []

    run(story)
