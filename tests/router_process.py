"""A router in a process of its own, with the real parts of the application's but Ray Serve, and questions to it."""

import asyncio
import datetime as dt
import json
import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psutil

from llamafarm_ray.registry import Change, RegistryState, VersionRegistered
from llamafarm_ray.registry.events import AliasMoved
from llamafarm_ray.serving.deployment.adapter_manager import Served
from llamafarm_ray.serving.gateway.validation import caller_of
from llamafarm_ray.serving.routing.affinity import Affinity
from llamafarm_ray.serving.routing.ingress import ROUTE, Routing
from llamafarm_ray.serving.routing.signed_header import ROUTED_HEADER, HeaderSigner
from llamafarm_ray.types import Digest, ModelKind

__all__ = ["adapters_state", "cpu_per_request", "router_process"]

BASE = Digest.of(b"base")


def adapters_state(number: int) -> RegistryState:
    """Return the state of a registry with so many adapters, each with an alias."""
    state = RegistryState()
    time_ = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)
    for adapter in range(number):
        name, digest = f"team-{adapter % 100}/bot-{adapter}", Digest.of(str(adapter).encode())
        made = VersionRegistered(
            model=name, version="1.0.0", kind=ModelKind.ADAPTER, manifest=digest, size_bytes=1, base_digest=BASE
        )
        events = (made, AliasMoved(model=name, alias="production", version="1.0.0"))
        change = Change(time=time_, principal="ann", idempotency_key=str(adapter), events=events)
        state = state.after_change(change, adapter + 1)
    return state


def route_app(state: RegistryState, num_replicas: int) -> Routing:
    """Return the router's app, with its real parts but Ray Serve's."""
    served, signer, affinity = Served("", "tiny", BASE), HeaderSigner("secret"), Affinity()
    view = SimpleNamespace(state=state)
    replicas = [f"replica-{number}" for number in range(num_replicas)]

    async def decide(headers: Any, body: dict[str, Any]) -> dict[str, Any]:
        routed = served.resolve(body["model"], view, caller_of(headers, body)).routed  # type: ignore[arg-type]
        running = {replica: replica for replica in replicas}  # as AffinityRouter makes it for each request
        picked = running[affinity.pick(routed.partition(";")[0], list(running))]
        sealed = {ROUTED_HEADER.decode(): signer.close(routed)}
        return {"host": "127.0.0.1", "port": 1, "replica_id": picked, "request_headers": sealed}

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError(scope["path"])

    return Routing(nothing, decide)


def run_router(listener: socket.socket, num_adapters: int) -> None:
    """Serve routers for any number of replicas, which a question's query names: the entry of a process of its own."""
    import uvicorn

    state = adapters_state(num_adapters)
    apps: dict[bytes, Routing] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        number = scope["query_string"]
        if number not in apps:
            apps[number] = route_app(state, int(number))
        await apps[number](scope, receive, send)

    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


@contextmanager
def router_process(num_adapters: int) -> Iterator[tuple[psutil.Process, int]]:
    """A router in a process of its own, and its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_router, args=(listener, num_adapters), daemon=True)
    process.start()
    port = listener.getsockname()[1]
    listener.close()
    try:
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.join()


async def send_requests(port: int, count: int, *, replicas: int, num_adapters: int, clients: int = 8) -> None:
    """Send questions on kept connections, for adapters by Zipf's law, to a router with so many replicas."""
    import numpy as np

    ranks = np.random.default_rng(0).zipf(1.2, 4 * count)
    chosen = [int(rank) - 1 for rank in ranks if rank <= num_adapters][:count]

    async def client(adapters: list[int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for adapter in adapters:
            body = json.dumps({"prompt": "one two three", "model": f"team-{adapter % 100}/bot-{adapter}"}).encode()
            length = f"content-length: {len(body)}"
            lines = (f"POST {ROUTE}?{replicas} HTTP/1.1", "host: x", "content-type: application/json", length, "", "")
            writer.write("\r\n".join(lines).encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            size = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(size.split(b":")[1]))
        writer.close()

    await asyncio.gather(*(client(chosen[number::clients]) for number in range(clients)))


def cpu_per_request(process: psutil.Process, port: int, *, decisions: int, replicas: int, num_adapters: int) -> float:
    """Return the seconds of a core that a process takes for a request, once it is warm."""
    asyncio.run(send_requests(port, decisions // 3, replicas=replicas, num_adapters=num_adapters))
    before = sum(process.cpu_times()[:2])
    asyncio.run(send_requests(port, decisions, replicas=replicas, num_adapters=num_adapters))
    return float((sum(process.cpu_times()[:2]) - before) / decisions)
