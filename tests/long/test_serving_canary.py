"""Canaries with real vLLM: 10,000 requests are split as asked, and a version that fails is taken back in time."""

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
from llamafarm_ray.serving.rollouts.observations import Sample, Window
from llamafarm_ray.serving.rollouts.split import Caller, gets_candidate
from llamafarm_ray.workflows.deploy import APPLICATION, deploy, undeploy
from llamafarm_ray.workflows.register import Registration, register
from llamafarm_ray.workflows.rollouts import abort_rollout, start_rollout

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NUM_CLIENTS = 16


@dataclasses.dataclass
class Pet:
    url: str
    registry: object

    @property
    def rollout(self):
        return self.registry.refresh().rollout("pet", "production")


@pytest.fixture(scope="module")
def served(ray_cluster, tmp_path_factory):
    """``pet`` has versions 1.0.0 (production), 1.1.0, which is fine, and 1.2.0, whose weights diverged in training."""
    from llamafarm_ray.workflows.cluster import free_port

    folder = tmp_path_factory.mktemp("canary")
    base = make_tiny_model(folder / "tiny", hidden_size=128)
    registry = open_registry(str(folder / "home"))
    for number in range(3):
        adapter = make_adapter(base, folder / str(number), seed=number + 1)
        if number == 2:
            scale_weights(adapter, 1e30)
        register(registry, Registration(adapter, name="pet", alias="production" if number == 0 else None))
    config = parse_config(
        {"base_model": str(base), "deployment": {"port": free_port(), "adapters": ["pet@production"]}}
    )
    deployment = deploy(config, registry, ray_cluster)
    yield Pet(deployment.url, registry)
    undeploy(registry, ray_cluster, deployment.url)


@pytest.fixture
def pet(served):
    """No rollout is under way before and after."""
    yield served
    if served.registry.refresh().rollout_under_way("pet", "production"):
        abort_rollout(served.registry, "pet", "production")


def scale_weights(adapter, factor):
    """Finite numbers, with which a float32 overflows: the logits are NaN, and vLLM can't write them as JSON."""
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({name: value * factor for name, value in load_file(path).items()}, path, {"format": "pt"})


def roll_out(pet, version, percent, **guards):
    plan = {"steps": [percent], "dwell_s": 3600, "guards": {"max_latency_ratio": None, **guards}}
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
    rollout = roll_out(pet, "1.1.0", 5, max_error_ratio=None)
    users = [f"user-{number}" for number in range(10_000)]
    variants = asyncio.run(ask_all(pet, users))
    share = 100 * sum(variant == "candidate" for variant in variants.values()) / len(users)
    assert abs(share - 5) <= 1
    expected = {user: is_candidates(rollout, user) for user in users}
    assert {user: variant == "candidate" for user, variant in variants.items()} == expected
    again = asyncio.run(ask_all(pet, users[::5]))
    assert again == {user: variants[user] for user in users[::5]}


@pytest.mark.parametrize("is_killed", [False, True], ids=["", "the controller is killed"])
def test_a_bad_version_is_taken_back_within_ten_seconds_of_its_threshold(pet, is_killed):
    import ray

    from llamafarm_ray.serving.rollouts.actor import controller_actor

    actor = controller_actor(pet.registry.home.uri, APPLICATION)
    before = ray.get(actor.pid.remote(), timeout=30)
    rollout = roll_out(pet, "1.2.0", 25)

    def on_failure(num_failed):
        if is_killed and num_failed == 1:
            os.kill(before, signal.SIGKILL)

    seen = asyncio.run(ask_until_rolled_back(pet, rollout, on_failure))
    ended = pet.rollout
    assert ended.status is RolloutStatus.ROLLED_BACK
    assert "guard max_error_ratio" in ended.changes[-1].reason
    assert not any(failed for _, is_candidate, failed in seen if not is_candidate)
    took_s = ended.changes[-1].time.timestamp() - threshold(pet, rollout, seen)
    assert took_s <= 10
    assert pet.registry.resolve("pet@production").ref == "pet:1.0.0"
    if is_killed:
        assert ray.get(actor.pid.remote(), timeout=30) != before


def is_candidates(rollout, user):
    return gets_candidate(rollout.id, Caller(user=user).key("user"), rollout.percent)


async def ask_until_rolled_back(pet, rollout, on_failure):
    """Requests until the rollout is over: when each was answered, whether it was the candidate's, whether it failed."""
    seen, is_over = [], asyncio.Event()

    async def client(number):
        async with httpx.AsyncClient(timeout=60) as session:
            turn = 0
            while not is_over.is_set():
                turn += 1
                user = f"client-{number}-{turn}"
                response = await ask(session, pet, user, logprobs=1)
                seen.append((time.time(), is_candidates(rollout, user), response.status_code >= 500))
                if seen[-1][2]:
                    on_failure(sum(failed for _, _, failed in seen))

    async def watch():
        deadline = time.monotonic() + 60
        while (await asyncio.to_thread(lambda: pet.rollout)).status is RolloutStatus.RUNNING:
            assert time.monotonic() < deadline, "not rolled back within 60 s"
            await asyncio.sleep(0.2)
        is_over.set()

    await asyncio.gather(watch(), *(client(number) for number in range(NUM_CLIENTS)))
    return seen


def threshold(pet, rollout, seen):
    """When the evidence was enough, had it been looked at after each answer; seconds since 1970."""
    counts = {True: Sample(), False: Sample()}
    record = pet.registry.resolve("pet:1.2.0")
    for time_s, is_candidate, failed in sorted(seen):
        counts[is_candidate] += Sample(requests=1, errors=int(failed))
        at = dt.datetime.fromtimestamp(time_s, dt.UTC)
        window = Window(rollout.changes[0].time, at, baseline=counts[False], candidate=counts[True])
        if broken_guard(rollout, Evidence().after(window, rollout), record):
            return time_s
    raise AssertionError("the threshold was never crossed")
