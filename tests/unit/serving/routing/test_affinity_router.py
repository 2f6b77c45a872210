"""Serve's request router knows what a request asks for, and ranks the replicas by it."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest

from llamafarm_ray.serving.deployment.router import Router
from llamafarm_ray.serving.routing.affinity_router import AffinityRouter

DEPLOYMENT = DeploymentID(name="tiny", app_name="llamafarm")
REPLICAS = [
    SimpleNamespace(replica_id=ReplicaID(unique_id, DEPLOYMENT), backend_http_endpoint=("10.0.0.1", 8000 + number))
    for number, unique_id in enumerate(("k2x9", "p0a1", "z7qd"))
]


def made(router_class=AffinityRouter):
    """A router as Serve makes it, with options that it has for all."""
    return router_class(
        deployment_id=DEPLOYMENT,
        handle_source=DeploymentHandleSource.REPLICA,
        self_node_id="node",
        self_actor_id="actor",
        prefer_local_node_routing=True,
        use_replica_queue_len_cache=False,
    )


def ranked(router, *args, candidates=REPLICAS, **kwargs):
    """The ranks for a request with these arguments, and the request."""

    async def scenario():
        metadata = RequestMetadata(request_id="1", internal_request_id="1")
        pending = PendingRequest(args=list(args), kwargs=kwargs, metadata=metadata)
        return await router.choose_replicas(candidates, pending), pending

    return asyncio.run(scenario())


def first(router, *args, **kwargs):
    ranks, _ = ranked(router, *args, **kwargs)
    ((replica,), others) = ranks
    assert others == REPLICAS
    return replica


def test_first_requests_go_to_one_replica_for_each_name_whichever_router_is_asked():
    names = [f"bot-{number}:1.0.0#abc" for number in range(30)]
    one, other = ([first(made(), engine_name=name) for name in names] for _ in range(2))
    assert one == other
    assert {replica.replica_id.unique_id for replica in one} == {"k2x9", "p0a1", "z7qd"}


@pytest.mark.parametrize("args", [(), ("what Serve's own proxy sends",)])
def test_requests_without_a_name_take_turns(args):
    router = made()
    assert [first(router, *args) for _ in range(6)] == [*REPLICAS, *REPLICAS]


def test_serve_waits_before_it_asks_again():
    assert ranked(made(), engine_name="bot")[1].routing_context.should_backoff
    assert ranked(made(), candidates=[])[0] == []


class Handle:
    """Of a deployment's handle, what picks: as Serve does, all arguments but its own are the request's."""

    def __init__(self, router):
        self._router = router

    @asynccontextmanager
    async def choose_replica(self, *args, _reserve, **kwargs):
        assert not _reserve
        metadata = RequestMetadata(request_id="1", internal_request_id="1")
        ranks = await self._router.choose_replicas(REPLICAS, PendingRequest(list(args), kwargs, metadata))
        yield SimpleNamespace(_replica=ranks[0][0], replica_id=ranks[0][0].replica_id.unique_id)


def test_the_applications_router_asks_by_the_engine_name():
    def picked(name):
        router = object.__new__(Router)
        router._server = Handle(made())
        return asyncio.run(router._picked(name))

    names = [f"bot-{number}:1.0.0#abc" for number in range(30)]
    homes = [first(made(), engine_name=name) for name in names]
    assert [picked(name) for name in names] == [
        (*home.backend_http_endpoint, home.replica_id.to_full_id_str()) for home in homes
    ]


def test_where_a_names_replica_does_not_listen_yet_the_proxy_gets_one_that_it_does_not_know(monkeypatch):
    router = object.__new__(Router)
    router._server = Handle(made())
    monkeypatch.setattr(first(made(), engine_name="bot"), "backend_http_endpoint", None)
    assert asyncio.run(router._picked("bot")) == ("", 0, "none")


def test_where_serve_has_no_request_in_mind_it_gets_a_replica_too():
    assert len(asyncio.run(made().choose_replicas(REPLICAS))) == 2


def test_the_class_reaches_the_processes_that_send():
    """Serve pickles it by value, with all that its module has."""
    described = RequestRouterConfig(request_router_class=AffinityRouter)
    assert described.request_router_class == "llamafarm_ray.serving.routing.affinity_router.AffinityRouter"
    assert first(made(described.get_request_router_class()), engine_name="bot") in REPLICAS
