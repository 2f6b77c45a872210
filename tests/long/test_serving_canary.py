"""Canaries with real vLLM: 10,000 requests are split as asked, and a version that is slow is taken back in time."""

import asyncio
import dataclasses
import datetime as dt
import os
import signal
import time

import httpx
import pytest
from adapters import make_adapter
from tiny_model import make_tiny_model

from llamafarm_ray.config import parse_config
from llamafarm_ray.registry import RolloutStatus, open_registry
from llamafarm_ray.serving.rollouts.guards import Evidence, broken_guard
from llamafarm_ray.serving.rollouts.start import start_rollout
from llamafarm_ray.serving.routing.traffic_split import Caller, gets_candidate
from llamafarm_ray.serving.telemetry.rollout_observations import Histogram, Sample, Window
from llamafarm_ray.workflows.deployments.deploy import deploy
from llamafarm_ray.workflows.deployments.deployed import APPLICATION
from llamafarm_ray.workflows.deployments.rollouts import abort_rollout
from llamafarm_ray.workflows.deployments.undeploy import undeploy
from llamafarm_ray.workflows.versions.register import Registration, register

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NUM_CLIENTS = 16
LONG = {"max_tokens": 100, "ignore_eos": True}


@dataclasses.dataclass
class Pet:
    url: str
    registry: object

    @property
    def rollout(self):
        return self.registry.refresh().rollout("pet", "production")


@pytest.fixture(scope="module")
def served(ray_cluster, tmp_path_factory):
    """``pet`` has versions 1.0.0 (production) and 1.1.0."""
    from llamafarm_ray.clusters.ports import free_port

    folder = tmp_path_factory.mktemp("canary")
    base = make_tiny_model(folder / "tiny", hidden_size=128)
    registry = open_registry(str(folder / "home"))
    for number in range(2):
        adapter = make_adapter(base, folder / str(number), seed=number + 1)
        register(registry, Registration(adapter, name="pet", alias="production" if number == 0 else None))
    config = parse_config(
        {"base_model": str(base), "deployment": {"port": free_port(), "adapters": ["pet@production"]}}
    )
    deployment = deploy(config, registry, ray_cluster)
    yield Pet(deployment.url, registry)
    undeploy(registry, ray_cluster)


@pytest.fixture
def pet(served):
    """No rollout is under way before and after."""
    yield served
    if served.registry.refresh().rollout_under_way("pet", "production"):
        abort_rollout(served.registry, "pet", "production")


def roll_out(pet, version, percent, **guards):
    plan = {"steps": [percent], "dwell_s": 3600, "guards": guards}
    config = parse_config({"deployment": {"rollout": plan}})
    rollout = start_rollout(pet.registry, f"pet:{version}", "production", config.deployment.rollout)
    asyncio.run(until_split(pet))
    return rollout


async def until_split(pet):
    async with httpx.AsyncClient(timeout=60) as client:
        deadline = time.monotonic() + 10
        while "x-llamafarm-variant" not in (await ask(client, pet, "nobody")).headers:
            assert time.monotonic() < deadline, "the rollout did not reach the router within 10 s"


async def ask(client, pet, user, **options):
    body = {"model": "pet", "prompt": "The capital", "max_tokens": 1, "temperature": 0, "user": user, **options}
    return await client.post(f"{pet.url}/completions", json=body)


async def ask_all(pet, users):
    """The variant that each user was answered by."""
    variants, left = {}, list(reversed(users))

    async def client():
        async with httpx.AsyncClient(timeout=60) as session:
            while left:
                user = left.pop()
                response = await ask(session, pet, user)
                assert response.status_code == 200, response.text
                variants[user] = response.headers["x-llamafarm-variant"]

    await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
    return variants


def test_10_000_requests_are_split_within_a_point_and_each_user_stays_where_it_is(pet):
    rollout = roll_out(pet, "1.1.0", 5, max_error_ratio=None, max_latency_ratio=None)
    users = [f"user-{number}" for number in range(10_000)]
    variants = asyncio.run(ask_all(pet, users))
    share = 100 * sum(variant == "candidate" for variant in variants.values()) / len(users)
    assert abs(share - 5) <= 1
    expected = {user: is_candidates(rollout, user) for user in users}
    assert {user: variant == "candidate" for user, variant in variants.items()} == expected
    again = asyncio.run(ask_all(pet, users[::5]))
    assert again == {user: variants[user] for user in users[::5]}


@pytest.mark.parametrize("is_killed", [False, True], ids=["", "the controller is killed"])
def test_a_slow_version_is_taken_back_within_ten_seconds_of_its_threshold(pet, is_killed):
    import ray

    from llamafarm_ray.serving.deployment.rollout_actor import controller_actor

    actor = controller_actor(pet.registry.home.uri, APPLICATION)
    before = ray.get(actor.pid.remote(), timeout=30)
    stop = end_mark(pet)
    rollout = roll_out(pet, "1.1.0", 25)

    def on_candidate(number):
        if is_killed and number == 5:
            os.kill(before, signal.SIGKILL)

    seen = asyncio.run(ask_until_rolled_back(pet, rollout, stop, on_candidate))
    ended = pet.rollout
    assert ended.status is RolloutStatus.ROLLED_BACK
    assert "guard max_latency_ratio" in ended.changes[-1].reason
    assert ended.changes[-1].time.timestamp() - threshold(pet, rollout, seen) <= 10
    assert pet.registry.resolve("pet@production").ref == "pet:1.0.0"
    if is_killed:
        assert ray.get(actor.pid.remote(), timeout=30) != before


def end_mark(pet):
    """A text soon in the answers of 1.0.0 and never in those of 1.1.0, which go on and on where it ends them."""

    async def answer(model):
        async with httpx.AsyncClient(timeout=60) as client:
            response = await ask(client, pet, "somebody", model=model, **LONG)
            return response.json()["choices"][0]["text"]

    good, bad = (asyncio.run(answer(f"pet:{version}")) for version in ("1.0.0", "1.1.0"))
    return next(good[at : at + 4] for at in range(20) if good[at : at + 4] not in bad)


def is_candidates(rollout, user):
    return gets_candidate(rollout.id, Caller(user=user).key("user"), rollout.percent)


async def ask_until_rolled_back(pet, rollout, stop, on_candidate):
    """Requests until the rollout is over: when each was answered, whether by the candidate, after how many seconds."""
    seen, is_over = [], asyncio.Event()

    async def client(number):
        async with httpx.AsyncClient(timeout=60) as session:
            turn = 0
            while not is_over.is_set():
                turn += 1
                user, sent_s = f"client-{number}-{turn}", time.time()
                response = await ask(session, pet, user, stop=stop, **LONG)
                assert response.status_code == 200, response.text
                seen.append((time.time(), is_candidates(rollout, user), time.time() - sent_s))
                if seen[-1][1]:
                    on_candidate(sum(is_candidate for _, is_candidate, _ in seen))

    async def watch():
        deadline = time.monotonic() + 60
        while (await asyncio.to_thread(lambda: pet.rollout)).status is RolloutStatus.RUNNING:
            assert time.monotonic() < deadline, "not rolled back within 60 s"
            await asyncio.sleep(0.2)
        is_over.set()

    await asyncio.gather(watch(), *(client(number) for number in range(NUM_CLIENTS)))
    return seen


def threshold(pet, rollout, seen):
    """When what the clients saw was enough, looked at each second; seconds since 1970."""
    evidence, record = Evidence(), pet.registry.resolve("pet:1.1.0")
    for second in range(int(min(seen)[0]), int(max(seen)[0]) + 1):
        samples = [
            Sample(requests=len(latencies), latencies=Histogram.of(latencies))
            for side in (False, True)
            for latencies in [[took_s for at_s, one, took_s in seen if int(at_s) == second and one is side]]
        ]
        start, end = (dt.datetime.fromtimestamp(at_s, dt.UTC) for at_s in (second, second + 1))
        evidence = evidence.after(Window(start, end, *samples), rollout)
        if broken_guard(rollout, evidence, record):
            return second + 1
    raise AssertionError("the threshold was never crossed")
