"""Rollouts that live: split over HTTP, watched by the controller's actor, ended by what users say, kill or no kill."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from adapters import make_adapter
from patience import wait_until

from llamafarm_ray.config import parse_config
from llamafarm_ray.registry import RolloutStatus
from llamafarm_ray.serving.rollouts.start import start_rollout
from llamafarm_ray.serving.routing.traffic_split import Caller, gets_candidate
from llamafarm_ray.workflows.deployments.deployed import APPLICATION, swap_adapter
from llamafarm_ray.workflows.deployments.rollout_progress import controllers
from llamafarm_ray.workflows.deployments.rollouts import abort_rollout
from llamafarm_ray.workflows.versions.register import Registration, register

NO_GUARDS = {"max_error_ratio": None, "max_latency_ratio": None}


def plan(**options):
    return parse_config({"deployment": {"rollout": {"guards": NO_GUARDS, **options}}}).deployment.rollout


@pytest.fixture(scope="module")
def pet(served, tmp_path_factory):
    """``pet`` has versions 1.0.0 (production) and 1.1.0; 1.2.0 has a rank that the engine refuses."""
    folder = tmp_path_factory.mktemp("pet")
    for number, rank in enumerate((8, 8, 32)):
        adapter = make_adapter(served.base, folder / str(number), seed=20 + number, rank=rank)
        register(served.registry, Registration(adapter, name="pet", alias="production" if number == 0 else None))
    return served


@pytest.fixture
def rolled_out(pet):
    """Starts a rollout of ``pet``; afterwards none is under way, and production is 1.0.0."""

    def started(version, **options):
        rollout = start_rollout(pet.registry, f"pet:{version}", "production", plan(**options))
        wait_until(lambda: "x-llamafarm-variant" in ask(pet).headers, 5)
        return rollout

    yield started
    if pet.registry.refresh().rollout_under_way("pet", "production"):
        abort_rollout(pet.registry, "pet", "production")
    swap_adapter(pet.registry, "pet:1.0.0", "production")


def ask(pet, user=None, **options):
    return pet.complete("pet", num_tokens=1, **({"user": user} if user else {}), **options)


def newest(pet):
    return pet.registry.refresh().rollout("pet", "production")


@pytest.fixture
def load(pet):
    """Users ask all the while; what went wrong for them is in the list."""
    failures, stop = [], threading.Event()

    def client(number):
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                response = ask(pet, f"user-{number}-{turn}")
                if response.status_code != 200:
                    failures.append(response.text)
            except httpx.TransportError as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    yield failures
    stop.set()
    [thread.join() for thread in threads]


def rate(pet, reference, rating, times=20):
    """Users say what they think of a version's answers."""

    def say(_):
        answered = pet.complete(reference, num_tokens=2)
        said = {
            "model": answered.json()["model"],
            "messages": [{"role": "user", "content": "A llama?"}],
            "answer": answered.json()["choices"][0]["text"] or "?",
            "rating": rating,
        }
        return httpx.post(f"{pet.url}/feedback", json=said, timeout=60).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(say, range(times))) == {201}


def answering(pet, num_users=20):
    """The versions that answer so many users."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda number: ask(pet, f"user-{number}"), range(num_users))
        return {answer.headers["x-llamafarm-model"] for answer in answers}


def test_each_user_and_session_gets_the_variant_that_is_theirs_each_time(pet, rolled_out):
    rollout = rolled_out("1.1.0", steps=[50], dwell_s=3600)
    version = {"baseline": "pet:1.0.0", "candidate": "pet:1.1.0"}

    def answers(number):
        asked = [ask(pet, f"user-{number}") for _ in range(2)]
        asked.append(ask(pet, headers_sent={"x-llamafarm-session": f"s-{number}"}))
        variants = [response.headers["x-llamafarm-variant"] for response in asked]
        assert [response.headers["x-llamafarm-model"] for response in asked] == [version[one] for one in variants]
        return variants

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(answers, range(60)))
    callers = [(Caller(user=f"user-{number}"), Caller(session=f"s-{number}")) for number in range(60)]
    expected = [
        [
            "candidate" if gets_candidate(rollout.id, caller.key("user"), 50) else "baseline"
            for caller in (user, user, session)
        ]
        for user, session in callers
    ]
    assert got == expected
    assert {"baseline", "candidate"} == {one for variants in got for one in variants}


def test_a_version_that_users_dislike_is_rolled_back_within_ten_seconds(pet, rolled_out, load):
    rolled_out("1.1.0", steps=[50], dwell_s=3600, guards={**NO_GUARDS, "min_feedback": 0.5})
    rate(pet, "pet:1.1.0", 0)
    wait_until(lambda: newest(pet).status is not RolloutStatus.RUNNING, 10)
    assert newest(pet).status is RolloutStatus.ROLLED_BACK
    assert "guard min_feedback" in newest(pet).changes[-1].reason
    assert pet.registry.resolve("pet@production").ref == "pet:1.0.0"
    wait_until(lambda: "x-llamafarm-variant" not in ask(pet).headers, 5)
    assert {ask(pet, f"user-{number}").headers["x-llamafarm-model"] for number in range(20)} == {"pet:1.0.0"}
    assert load == []


def test_a_version_that_fails_its_evaluation_meanwhile_is_rolled_back(pet, rolled_out):
    pet.registry.record_metrics("pet:1.1.0", {"accuracy": 0.9})
    rollout = rolled_out("1.1.0", steps=[5], dwell_s=3600, guards={**NO_GUARDS, "metrics": {"accuracy": ">0.8"}})
    with controllers(pet.registry) as ask_controllers:
        wait_until(lambda: rollout.id in ask_controllers().progress, 10)  # it has been judged
    assert newest(pet).status is RolloutStatus.RUNNING
    pet.registry.record_metrics("pet:1.1.0", {"accuracy": 0.7})
    wait_until(lambda: newest(pet).status is RolloutStatus.ROLLED_BACK, 10)


def test_a_version_that_vllm_refuses_is_rolled_back(pet):
    start_rollout(pet.registry, "pet:1.2.0", "production", plan(steps=[5], dwell_s=3600))
    wait_until(lambda: newest(pet).status is RolloutStatus.ROLLED_BACK, 10)
    assert "it can't be loaded" in newest(pet).changes[-1].reason


def test_a_good_version_is_promoted_though_the_controller_is_killed_in_the_middle(pet, rolled_out, load):
    import ray

    from llamafarm_ray.serving.deployment.rollout_actor import controller_actor

    actor = controller_actor(pet.registry.home.uri, APPLICATION)
    killed = ray.get(actor.pid.remote(), timeout=30)
    rolled_out("1.1.0", steps=[30, 60], dwell_s=2, min_requests=10)
    wait_until(lambda: newest(pet).step == 1, 20)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: newest(pet).status is not RolloutStatus.RUNNING, 40)
    assert newest(pet).status is RolloutStatus.PROMOTED
    assert [change.step for change in newest(pet).changes] == [0, 1, 1]
    assert ray.get(actor.pid.remote(), timeout=30) != killed
    assert pet.registry.resolve("pet@production").ref == "pet:1.1.0"
    wait_until(lambda: ask(pet).headers["x-llamafarm-model"] == "pet:1.1.0", 5)
    assert load == []


def test_the_controller_tells_how_a_canary_goes(pet, rolled_out, load):
    guards = {**NO_GUARDS, "max_error_rate": 0.5}
    rollout = rolled_out("1.1.0", steps=[50], dwell_s=3600, min_requests=10, guards=guards)
    with controllers(pet.registry) as ask_controllers:
        wait_until(lambda: rollout.id in ask_controllers().progress, 10)
        wait_until(lambda: ask_controllers().progress[rollout.id].step_requests >= 10, 20)
        heard = ask_controllers()
    progress = heard.progress[rollout.id]
    assert heard.missing([newest(pet)]) == ""
    assert progress.baseline.requests > 0
    assert progress.candidate.requests >= progress.step_requests
    assert (progress.candidate.errors, [guard.name for guard in progress.guards]) == (0, ["max_error_rate"])
    assert progress.candidate.p95_latency_s > 0
    assert load == []


def test_of_two_variants_the_one_that_users_like_better_wins(pet, rolled_out, load):
    rolled_out("1.1.0", kind="ab", percent=50, metric="feedback", min_requests=20)
    assert answering(pet) == {"pet:1.0.0", "pet:1.1.0"}
    rate(pet, "pet:1.0.0", 0)
    rate(pet, "pet:1.1.0", 1)
    wait_until(lambda: newest(pet).status is not RolloutStatus.RUNNING, 20)
    assert newest(pet).status is RolloutStatus.PROMOTED
    wait_until(lambda: answering(pet) == {"pet:1.1.0"}, 5)
    assert load == []


def test_all_requests_go_to_the_green_version_at_once_and_back_at_once(pet, rolled_out, load):
    guards = {"max_error_rate": 0.05, "metrics": {"accuracy": ">0.8"}}
    pet.registry.record_metrics("pet:1.1.0", {"accuracy": 0.9})
    rolled_out("1.1.0", kind="blue_green", dwell_s=3600, guards=guards)
    assert answering(pet) == {"pet:1.1.0"}
    assert pet.registry.resolve("pet@production").ref == "pet:1.0.0"
    pet.registry.record_metrics("pet:1.1.0", {"accuracy": 0.7})
    wait_until(lambda: newest(pet).status is RolloutStatus.ROLLED_BACK, 10)
    wait_until(lambda: answering(pet) == {"pet:1.0.0"}, 5)
    assert load == []


def test_a_shadow_answers_nobody_and_is_judged_by_the_copies_that_it_gets(pet, rolled_out, request):
    rolled_out("1.1.0", kind="shadow", percent=100, dwell_s=0.5, min_requests=200, automatic=True)
    assert answering(pet) == {"pet:1.0.0"}
    assert newest(pet).status is RolloutStatus.RUNNING, "so few copies say nothing"
    load = request.getfixturevalue("load")
    wait_until(lambda: newest(pet).status is not RolloutStatus.RUNNING, 30)
    assert newest(pet).status is RolloutStatus.PROMOTED, newest(pet).changes
    wait_until(lambda: answering(pet) == {"pet:1.1.0"}, 5)
    assert load == []
