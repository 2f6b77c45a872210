"""An endpoint that gets the body only still learns the request's headers, each request its own."""

import asyncio

import httpx
from fastapi import FastAPI

from llamafarm_ray.serving.intake import caller_of
from llamafarm_ray.serving.request_headers import KeepHeaders, request_headers
from llamafarm_ray.serving.rollouts import Caller


def test_an_endpoint_sees_its_own_requests_headers():
    app = FastAPI()

    @app.post("/")
    async def endpoint(body: dict):
        await asyncio.sleep(0.01)  # so that requests overlap
        return caller_of(request_headers(), body).session

    app.add_middleware(KeepHeaders)

    async def scenario():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            calls = (client.post("/", json={}, headers={"X-Llamafarm-Session": str(n)}) for n in range(20))
            return [answer.json() for answer in await asyncio.gather(*calls)]

    assert asyncio.run(scenario()) == [str(n) for n in range(20)]


def test_outside_of_a_request_there_are_none():
    assert caller_of(request_headers(), {"user": "ann"}) == Caller("ann")
