"""A controller knows the other applications of its registry, and nobody waits for its looks."""

import asyncio
import pickle
import threading
import time

import pytest
from fake_gateway import BASE, ONE, TWO
from patience import patience
from ray.exceptions import RayError

from llamafarm_ray.errors import ClusterError
from llamafarm_ray.serving.deployment import rollout_actor
from llamafarm_ray.serving.ray_serve import state
from llamafarm_ray.serving.selection.catalog import VECTORS, WRITES
from llamafarm_ray.serving.selection.latencies import Latencies
from llamafarm_ray.serving.selection.peers import Figures, Known, Peer, PeerDiscovery
from llamafarm_ray.serving.telemetry.outcome import End
from llamafarm_ray.serving.telemetry.request_statistics import Activity, RecentRequests
from llamafarm_ray.types import Digest

LARGE = Digest.of(b"large")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def around(find, ask):
    made = PeerDiscovery(find, ask, Clock())

    async def look():
        made._clock.now += 5
        await made.look()
        return {one.application: one.figures for one in made.known}

    return made, look


NEAR = [Peer("b", "/b", "large", LARGE), Peer("c", "/c", "third", TWO)]


TOLD = Figures(WRITES, Latencies({"poet:2.0.0": 50.0}, 50.0))


def test_each_is_asked_and_only_who_says_what_it_answers_is_known():
    async def story():
        said = {"b": TOLD, "c": Figures()}

        async def ask(application):
            return said[application]

        made, look = around(lambda: NEAR, ask)
        assert made.known == ()
        assert await look() == {"b": TOLD}
        said["c"] = Figures(VECTORS)
        assert await look() == said
        said["b"] = Figures()  # its controller is new, and no replica runs
        assert (await look())["b"] == Figures(WRITES)

    asyncio.run(story())


@pytest.mark.parametrize(
    "error", [ValueError("no actor"), RayError("it died"), AttributeError("known"), TimeoutError()]
)
def test_a_controller_that_says_nothing_leaves_what_it_said_before(error):
    async def story():
        trouble = []

        async def ask(application):
            if trouble and application == "b":
                raise trouble[0]
            return TOLD

        near = list(NEAR)
        _, look = around(lambda: near, ask)
        await look()
        trouble.append(error)
        assert await look() == {"b": TOLD, "c": TOLD}
        near[0] = Peer("b", "/b", "other", ONE)  # what was said was of another base model
        assert await look() == {"c": TOLD}

    asyncio.run(story())


def test_an_application_that_serve_has_no_more_is_gone_and_while_serve_is_silent_what_is_known_stands():
    async def story():
        near, is_dead = list(NEAR), False

        def find():
            if is_dead:
                raise ClusterError("Serve's controller is dead")
            return near

        async def ask(_application):
            return TOLD

        _, look = around(find, ask)
        assert set(await look()) == {"b", "c"}
        is_dead = True
        assert set(await look()) == {"b", "c"}
        is_dead, near = False, NEAR[1:]
        assert set(await look()) == {"c"}

    asyncio.run(story())


def test_nobody_waits_for_a_slow_one_and_there_is_one_look_at_a_time(monkeypatch):
    monkeypatch.setattr("llamafarm_ray.serving.selection.peers._LATE_S", 0.05)

    async def story():
        let_go, asked = threading.Event(), []

        def find():
            asked.append("Serve")
            let_go.wait(30)
            return NEAR

        async def ask(application):
            asked.append(application)
            if application == "b":
                await asyncio.Event().wait()
            return TOLD

        made = PeerDiscovery(find, ask, Clock())
        began = time.monotonic()
        looking = made.look()
        for _ in range(3):
            made._clock.now += 100
            assert made.look() is looking
        assert time.monotonic() - began < patience(5)
        let_go.set()
        await looking
        assert asked == ["Serve", "b", "c"]
        assert [one.application for one in made.known] == ["c"]
        made._clock.now += 4.9 - 300
        assert made.look() is looking

    asyncio.run(story())


def test_a_serve_that_hangs_is_asked_by_one_thread_and_what_was_known_of_it_ends(monkeypatch):
    monkeypatch.setattr("llamafarm_ray.serving.selection.peers._LATE_S", 0.05)

    async def story():
        let_go, num_asked = threading.Event(), []
        let_go.set()

        def find():
            num_asked.append(1)
            let_go.wait(30)
            return NEAR

        async def ask(_application):
            return TOLD

        made, look = around(find, ask)
        assert set(await look()) == {"b", "c"}
        let_go.clear()
        try:
            for _ in range(11):
                assert set(await look()) == {"b", "c"}
            assert await look() == {}
            assert len(num_asked) == 2
        finally:
            let_go.set()
        await made._finding
        assert set(await look()) == {"b", "c"}

    asyncio.run(story())


@pytest.mark.parametrize(
    "odd", [None, "figures", object.__new__(Figures), Figures(WRITES, object.__new__(Latencies)), Figures(WRITES, None)]
)
def test_one_that_says_what_nobody_understands_keeps_the_others_from_nothing(odd):
    async def story():
        async def ask(application):
            return odd if application == "b" else TOLD

        _, look = around(lambda: NEAR, ask)
        assert await look() == {"c": TOLD}

    asyncio.run(story())


def test_a_replica_that_is_late_has_nobody_else_wait_for_the_controller(monkeypatch):
    controller = rollout_actor.ControllerActor.__ray_metadata__.modified_class

    class Fleet:
        is_late = False

        async def activities(self):
            if self.is_late:
                await asyncio.Event().wait()
            return [Activity("tiny", kinds=VECTORS)]

    async def nothing(_self):
        return

    fleet = Fleet()
    monkeypatch.setattr(controller, "_run", nothing)
    monkeypatch.setattr(controller, "_fleet", lambda _self: fleet)
    monkeypatch.setattr(rollout_actor, "_LOOK_S", 0.0)

    async def story():
        made = object.__new__(controller)
        await made.__init__("memory://late", "a", BASE, None)
        assert await made.known() == Known(Figures(VECTORS))
        fleet.is_late = True
        for _ in range(3):
            async with asyncio.timeout(patience(5)):
                assert await made.known() == Known(Figures(VECTORS))

    asyncio.run(story())


def test_figures_are_of_all_replicas_and_kinds_outlive_them():
    recent = RecentRequests(Clock())
    recent.add("bot:1.0.0", End.ANSWERED, 0.1)
    found = Figures.of([Activity("tiny"), Activity("tiny", seen=recent.seen(), kinds=VECTORS)], Figures())
    assert found.kinds == VECTORS
    assert found.latencies.get("bot:1.0.0") == pytest.approx(100, rel=0.03)
    assert Figures.of([], found) == Figures(VECTORS)
    known = Known(found, (Peer("b", "/b", "large", LARGE, figures=TOLD),))
    assert pickle.loads(pickle.dumps(known)) == known  # noqa: S301


def serve_application(route_prefix="/b", home="/homes/one", *, status="RUNNING", states=("RUNNING",), target=1):
    settings = {"home": home, "base_name": "large", "base_digest": str(LARGE), "require_key": True}
    settings |= {"allowed_hosts": ["Models.example.com"], "allowed_origins": ["https://chat.example.com"]}
    deployment = {
        "name": "large",
        "target_num_replicas": target,
        "replicas": [{"state": state, "actor_name": f"r{n}"} for n, state in enumerate(states)],
        "deployment_config": {"user_config": {"llamafarm": settings}},
    }
    return {"route_prefix": route_prefix, "status": status, "deployments": {"large": deployment}}


def test_sent_on_is_to_applications_of_the_same_home_that_can_be_asked(monkeypatch):
    applications = {
        "root": serve_application("/"),
        "b": serve_application("/b"),
        "deep": serve_application("/deep/er one"),
        "asleep": serve_application("/asleep", states=(), target=0),
        "unhealthy": serve_application("/unhealthy", status="UNHEALTHY"),
        "elsewhere": serve_application("/elsewhere", "/homes/two"),
        "hidden": serve_application(None),
        "going": serve_application("/going", status="DELETING"),
        "starting": serve_application("/starting", status="DEPLOYING", states=("STARTING",)),
        "dead": serve_application("/dead", status="DEPLOY_FAILED", states=()),
        "theirs": {"route_prefix": "/theirs", "status": "RUNNING", "deployments": {}},
    }

    for name, broken in {"no-digest": {"base_digest": "sha1:x"}, "odd": None}.items():
        applications[name] = serve_application(f"/{name}")
        ours = applications[name]["deployments"]["large"]["deployment_config"]["user_config"]
        if broken is None:
            del ours["llamafarm"]["allowed_hosts"]
        else:
            ours["llamafarm"] |= broken

    class Serve:
        def get_serve_details(self):
            return {"applications": applications}

    monkeypatch.setattr(state, "_get_global_client", lambda **_: Serve())
    found = {one.application: one for one in state.reachable("/homes/one")}
    assert {name: one.root for name, one in found.items()} == {
        "root": "",
        "b": "/b",
        "deep": "/deep/er%20one",
        "asleep": "/asleep",
        "unhealthy": "/unhealthy",
    }
    settings = {"allowed_hosts": ("models.example.com",), "allowed_origins": ("https://chat.example.com",)}
    assert found["b"] == Peer("b", "/b", "large", LARGE, require_key=True, **settings)
    monkeypatch.setattr(state, "_get_global_client", lambda **_: None)
    assert state.reachable("/homes/one") == []

    def dead(**_):
        raise RayError("it died")

    monkeypatch.setattr(state, "_get_global_client", dead)
    with pytest.raises(ClusterError, match="Serve does not say which applications it has: it died"):
        state.reachable("/homes/one")
