"""Replicas come and go with the load, down to none, on Ray Serve behind HAProxy: nothing is lost on the way."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from adapters import greedy, make_adapter
from served_answers import whole_letters
from tiny_model import make_tiny_model

from llamafarm_ray.config import parse_config, resolved
from llamafarm_ray.registry import open_registry

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PROMPT = "The capital of France"
NUM_TOKENS = 12
STARTED_S = 240.0
"""What an engine's start may take on a busy machine."""
SCALING = {
    "min_replicas": 0,
    "max_replicas": 2,
    "target_ongoing_requests": 2.0,
    "upscale_delay_s": 1.0,
    "downscale_delay_s": 5.0,
}


def ask(url, model, **options):
    body = {"model": model, "prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0, **options}
    return httpx.post(f"{url}/completions", json=body, timeout=STARTED_S)


def said(response):
    assert response.status_code == 200, response.text
    return whole_letters(response.json()["choices"][0]["text"])


def num_replicas(application="llamafarm"):
    from llamafarm_ray.serving.ray_serve.state import running_replicas

    return len(running_replicas(application))


def wait_until(holds, timeout_s=STARTED_S):
    deadline = time.monotonic() + timeout_s
    while not (result := holds()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(0.2)
    return result


@contextmanager
def clients(url, number, **options):
    """Clients that ask without a pause; their answers."""
    stop, answers = threading.Event(), []

    def ask_on():
        while not stop.is_set():
            answers.append(ask(url, "bot", **options))

    threads = [threading.Thread(target=ask_on) for _ in range(number)]
    [thread.start() for thread in threads]
    try:
        yield answers
    finally:
        stop.set()
        [thread.join() for thread in threads]


def stream(url, model, num_tokens):
    """How a stream ended, and in how many pieces it came."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": num_tokens, "stream": True}
    with httpx.stream("POST", f"{url}/completions", json=body, timeout=STARTED_S) as response:
        assert response.status_code == 200
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    return json.loads(events[-2])["choices"][0]["finish_reason"]


@pytest.fixture(params=["vllm", "transformers"])
def served(request, ray_cluster, tmp_path):
    from ray import serve

    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy
    from llamafarm_ray.workflows.versions.register import Registration, register

    base = make_tiny_model(tmp_path / "tiny", hidden_size=128)
    registry = open_registry(str(tmp_path / "home"))
    adapter = make_adapter(base, tmp_path / "adapter", seed=1)
    register(registry, Registration(adapter, name="bot", alias="production"))
    deployment = {
        "port": free_port(),
        "engine": request.param,
        "replicas": 0,
        "auto_scaling": SCALING,
        "max_lora_rank": 16,
        "adapters": ["bot@production"],
        "limits": {"cold_start_requests": 10},  # more than clients: they are still passed on here for a moment after
    }
    serve.shutdown()  # another module's may listen at another port
    deployed = deploy(parse_config({"base_model": str(base), "deployment": deployment}), registry, ray_cluster)
    yield deployed.url, whole_letters(greedy(base, adapter, PROMPT, NUM_TOKENS))
    undeploy(registry, ray_cluster)
    serve.shutdown()


def test_from_none_to_two_and_back_to_none(served):
    url, expected = served
    assert num_replicas() == 0
    assert httpx.get(f"{url}/models", timeout=60).status_code == 200
    assert num_replicas() == 0

    with ThreadPoolExecutor(14) as pool:
        first = list(pool.map(lambda _: ask(url, "bot"), range(14)))
    answered = [one for one in first if one.status_code == 200]
    refused = [one for one in first if one.status_code != 200]
    assert [said(one) for one in answered] == [expected] * 10
    assert {(one.status_code, one.json()["error"]["code"]) for one in refused} == {(503, "model_starting")}
    assert all(int(one.headers["retry-after"]) > 0 for one in refused)
    assert num_replicas() == 1

    with clients(url, 8) as answers:
        wait_until(lambda: num_replicas() == 2)
        num_before = len(answers)
        wait_until(lambda: len(answers) > num_before + 20)
    assert {said(one) for one in answers} == {expected}

    wait_until(lambda: num_replicas() == 0)

    assert said(ask(url, "bot")) == expected


def test_a_replica_that_goes_ends_its_streams_whole(ray_cluster, tmp_path):
    from ray import serve

    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy

    base = make_tiny_model(tmp_path / "slow")
    registry = open_registry(str(tmp_path / "home"))
    deployment = {
        "port": free_port(),
        "engine": "custom",
        "engine_kwargs": {"model": "engines:Slow"},
        "replicas": 2,
        "auto_scaling": {**SCALING, "min_replicas": 1},
    }
    serve.shutdown()  # another module's may listen at another port
    deployed = deploy(parse_config({"base_model": str(base), "deployment": deployment}), registry, ray_cluster)
    try:
        with ThreadPoolExecutor(2) as pool:
            streams = [pool.submit(stream, deployed.url, "slow", 240) for _ in range(2)]
            wait_until(lambda: num_replicas() == 1)
            time.sleep(40)  # longer than Serve waits for load balancers, and so than it waits for nobody
            assert not any(one.done() for one in streams)
            assert [one.result() for one in streams] == ["length", "length"]
    finally:
        undeploy(registry, ray_cluster)
        serve.shutdown()


def test_models_that_do_not_fit_together_take_turns(ray_cluster, tmp_path, monkeypatch):
    import ray
    from ray import serve

    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.serving.application import build

    home, port = str(tmp_path / "home"), free_port()
    memory = int(ray.cluster_resources()["memory"] * 0.6)
    serve.shutdown()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    expected = {}
    for number, name in enumerate(("one", "two")):
        base = make_tiny_model(tmp_path / name, hidden_size=64, seed=number)
        expected[name] = whole_letters(greedy(base, None, PROMPT, NUM_TOKENS))
        deployment = {
            "engine": "transformers",
            "replicas": 0,
            "resources": {"memory": memory},
            "auto_scaling": {**SCALING, "max_replicas": 1, "downscale_delay_s": 3600.0},
        }
        config = parse_config({"home": home, "base_model": str(base), "deployment": deployment})
        serve.run(build(resolved(config)), name=name, route_prefix=f"/{name}")
    try:
        for name in ("one", "two", "one"):
            response = ask(f"http://127.0.0.1:{port}/{name}/v1", name)
            assert said(response) == expected[name]
            other = {"one": "two", "two": "one"}[name]
            assert (num_replicas(name), num_replicas(other)) == (1, 0)
    finally:
        serve.shutdown()
