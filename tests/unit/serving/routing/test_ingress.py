"""The proxy's question is answered from a request's own headers and body; what can't be answered is a 503."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from llamafarm_ray.serving.gateway.validation import caller_of
from llamafarm_ray.serving.routing.ingress import ROUTE, Routing


def client_of(decide):
    app = FastAPI()

    @app.get("/health")
    async def health():
        return {"status": "ok"}

    app.add_middleware(Routing, decide=decide)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


async def told(headers, body):
    await asyncio.sleep(0.01)  # so that requests overlap
    return {"session": caller_of(headers, body).session, "model": body.get("model")}


def test_each_question_is_answered_from_its_own_headers_and_body():
    async def scenario():
        async with client_of(told) as client:
            calls = (
                client.post(ROUTE, json={"model": f"bot-{n}"}, headers={"X-Llamafarm-Session": str(n)})
                for n in range(20)
            )
            return [answer.json() for answer in await asyncio.gather(*calls)]

    assert asyncio.run(scenario()) == [{"session": str(n), "model": f"bot-{n}"} for n in range(20)]


@pytest.mark.parametrize("data", [b"", b'{"model": "bot', b"[1]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_or_was_cut_is_an_empty_one(data):
    async def scenario():
        async with client_of(told) as client:
            return await client.post(ROUTE, content=data)

    assert asyncio.run(scenario()).json() == {"session": "", "model": None}


def test_without_a_replica_it_is_a_503():
    async def decide(headers, body):
        raise RuntimeError("replica 1 has no backend HTTP endpoint")

    async def scenario():
        async with client_of(decide) as client:
            return await client.post(ROUTE, json={})

    assert asyncio.run(scenario()).status_code == 503


def test_all_else_is_the_applications():
    async def scenario():
        async with client_of(told) as client:
            return (await client.get("/health")).json(), (await client.get(ROUTE)).status_code

    assert asyncio.run(scenario()) == ({"status": "ok"}, 404)


def test_where_no_replica_is_found_in_time_the_proxy_gets_one_that_it_does_not_know(monkeypatch):
    from llamafarm_ray.serving.deployment import router

    async def never(_, engine_name):
        await asyncio.Event().wait()

    monkeypatch.setattr(router, "_PICK_S", 0.01)
    monkeypatch.setattr(router.Router, "_pick", never)
    assert asyncio.run(object.__new__(router.Router)._picked("bot")) == ("", 0, "none")
