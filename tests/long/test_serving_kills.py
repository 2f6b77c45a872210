"""What serves is killed, one part after the other, under load: no wrong answer, and all of it comes back by itself."""

import contextlib
import dataclasses
import logging
import os
import signal
import statistics
import threading
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest
from adapters import greedy, make_adapter
from process_tools import titled
from served_answers import whole_letters
from tiny_model import make_tiny_model

from llamafarm_ray.config import parse_config
from llamafarm_ray.registry import open_registry

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PROMPT = "The capital of France"
NUM_TOKENS = 12
NUM_CLIENTS = 4
RESTORED_S = 30.0
MODEL_LOAD_S = 240.0
"""What the engine's own start may take on a busy machine."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Asked:
    """One request and what came of it; ``error`` is empty for a whole answer."""

    begun: float
    ended: float
    version: str = ""
    text: str = ""
    error: str = ""


class Load:
    """Clients that ask for ``bot`` without a pause, streaming and not, until the block ends."""

    def __init__(self, url):
        self._url = url
        self._stop = threading.Event()
        self.asked = []

    @contextmanager
    def running(self):
        threads = [threading.Thread(target=self._ask_on, args=(number % 2 == 0,)) for number in range(NUM_CLIENTS)]
        [thread.start() for thread in threads]
        try:
            yield self
        finally:
            self._stop.set()
            [thread.join() for thread in threads]

    def _ask_on(self, is_stream):
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                version, text = ask(self._url, "bot", is_stream=is_stream)
                self.asked.append(Asked(begun, time.monotonic(), version, text))
            except (httpx.HTTPError, AssertionError) as error:
                self.asked.append(Asked(begun, time.monotonic(), error=repr(error)))
                time.sleep(0.05)  # a refused connection is asked for again at once otherwise, thousands of times

    def answered_since(self, when):
        return [one for one in self.asked if not one.error and one.begun > when]

    def failed(self):
        return [one for one in self.asked if one.error]


def ask(url, model, *, is_stream=False):
    """The version and the text of a whole answer; anything else is an error."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0, "stream": is_stream}
    with httpx.stream("POST", f"{url}/completions", json=body, timeout=120) as response:
        assert response.status_code == 200, (response.status_code, response.read())
        version = response.headers["x-llamafarm-model"]
        if not is_stream:
            response.read()
            return version, whole_letters(response.json()["choices"][0]["text"])
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        assert events[-1] == "[DONE]", events[-1:]
        pieces = [httpx.Response(200, content=event).json() for event in events[:-1]]
        return version, whole_letters("".join(piece["choices"][0]["text"] for piece in pieces))


@dataclasses.dataclass
class Served:
    """Two replicas that serve ``bot``, and what its versions say."""

    url: str
    registry: object
    oracle: dict[str, str]
    started_s: float
    """What it took until both replicas had loaded the model and its adapter."""


@pytest.fixture(scope="module")
def served(ray_cluster, tmp_path_factory):
    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy
    from llamafarm_ray.workflows.versions.register import Registration, register

    folder = tmp_path_factory.mktemp("kills")
    base = make_tiny_model(folder / "tiny", hidden_size=128)
    registry = open_registry(str(folder / "home"))
    oracle = {}
    for number in range(2):
        adapter = make_adapter(base, folder / f"adapter-{number}", seed=number + 1)
        record = register(registry, Registration(adapter, name="bot", alias="production" if number == 0 else None))
        oracle[record.ref] = whole_letters(greedy(base, adapter, PROMPT, NUM_TOKENS))
    assert len(set(oracle.values())) == 2
    config = parse_config(
        {
            "base_model": str(base),
            "deployment": {
                "port": free_port(),
                "replicas": 2,
                "max_lora_rank": 16,
                "max_loras": 2,
                "adapters": ["bot@production"],
            },
        }
    )
    deployed = deploy(config, registry, ray_cluster)
    yield Served(deployed.url, registry, oracle, deployed.seconds)
    undeploy(registry, ray_cluster)


@pytest.fixture
def load(served):
    """Clients at work; at the end every answer is compared with what the version that it names says."""
    wait_until(lambda: len(replicas()) == 2, MODEL_LOAD_S)
    with Load(served.url).running() as clients:
        wait_until(lambda: len(clients.asked) > 20, 60)
        yield clients
    assert clients.answered_since(0)
    assert [one for one in clients.asked if not one.error and one.text != served.oracle[one.version]] == []


def replicas():
    """The running replicas' processes, by actor name."""
    from ray.serve.context import _get_global_client

    details = _get_global_client().get_serve_details()["applications"]["llamafarm"]["deployments"]
    return {
        replica["actor_name"]: replica["pid"]
        for deployment in details.values()
        if deployment["name"] != "router"
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING"
    }


def processes(name):
    return [process.pid for process in titled(name)]


def wait_until(holds, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not (result := holds()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(0.2)
    return result


def kill(pid):
    """When the process was gone: up to then the system keeps its connections open, and requests reach them."""
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):  # its first thread may be dead while others hold what it had open
        while process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1:
            time.sleep(0.001)
    return time.monotonic()


def swap_back_and_forth(served):
    """Aliases move, and the endpoint follows: what decides and what loads are both there."""
    from llamafarm_ray.workflows.deployments.deployed import swap_adapter

    for version in ("bot:1.1.0", "bot:1.0.0"):
        assert swap_adapter(served.registry, version, "production").ref == version


def own_urls():
    """Each replica's own address, past the proxy and the router."""
    import ray
    from ray.serve.context import _get_global_client

    groups = ray.get(_get_global_client()._controller.get_target_groups.remote("llamafarm", True))
    return [f"http://127.0.0.1:{one.port}/v1" for group in groups for one in group.targets]


def test_an_alias_moves_on_both_replicas_and_their_router_within_two_seconds(served):
    """Ninety-nine of a hundred moves; a replica and the router each follow the registry by themselves."""
    from llamafarm_ray.serving.ray_serve.replicas import load_everywhere

    wait_until(lambda: len(own_urls()) == 2, MODEL_LOAD_S)
    body = {"model": "bot", "prompt": "?", "max_tokens": 1}
    took = []
    with httpx.Client(timeout=60) as client:
        for number in range(60):
            ref = f"bot:1.{(number + 1) % 2}.0"
            load_everywhere("llamafarm", ref)
            begun = time.perf_counter()
            served.registry.promote(ref, "production")
            for url in [*own_urls(), served.url]:
                while client.post(f"{url}/completions", json=body).headers["x-llamafarm-model"] != ref:
                    assert time.perf_counter() - begun < 10
                    time.sleep(0.01)
                took.append(time.perf_counter() - begun)
            # From now on everybody knows.
            answers = [client.post(f"{served.url}/completions", json=body) for _ in range(4)]
            assert {answer.headers["x-llamafarm-model"] for answer in answers} == {ref}
    logger.info("followed: p50 %.3f s, p99 %.3f s", statistics.median(took), statistics.quantiles(took, n=100)[98])
    assert statistics.quantiles(took, n=100)[98] <= 2


def test_the_registrys_death_fails_no_request(served, load):
    import ray

    from llamafarm_ray.registry.remote.actor import registry_actor

    actor = registry_actor(served.registry.home.uri)
    pid = ray.get(actor.pid.remote())
    killed = kill(pid)
    wait_until(lambda: len(load.answered_since(killed)) > 20, 60)
    assert ray.get(actor.pid.remote(), timeout=RESTORED_S) != pid
    swap_back_and_forth(served)
    assert load.failed() == []


def test_the_serve_controllers_death_fails_no_request_and_costs_no_replica(served, load):
    before = replicas()
    (pid,) = processes("ray::ServeController")
    killed = kill(pid)
    wait_until(lambda: [one for one in processes("ray::ServeController") if one != pid], RESTORED_S)
    wait_until(lambda: replicas() == before, RESTORED_S)
    wait_until(lambda: len(load.answered_since(killed)) > 20, 60)
    swap_back_and_forth(served)
    assert replicas() == before
    assert load.failed() == []


@pytest.mark.parametrize("name", ["haproxy", "ray::HAProxyManager"])
def test_the_proxy_comes_back_and_fails_nothing_from_then_on(served, load, name):
    pids = processes(name)
    assert pids
    killed = max(kill(pid) for pid in pids)
    wait_until(lambda: set(processes("haproxy")) - set(pids) and load.answered_since(killed), RESTORED_S)
    back = min(one.ended for one in load.answered_since(killed))
    swap_back_and_forth(served)
    wait_until(lambda: len(load.answered_since(time.monotonic() - 1)) > 5, 60)
    assert [one for one in load.failed() if one.begun > back] == []


def test_a_dead_engine_takes_its_replica_along_before_requests_fail_for_want_of_it(served, load):
    replica = psutil.Process(min(replicas().values()))
    [engine] = [one for one in replica.children(recursive=True) if one.name().startswith("VLLM::EngineCor")]
    died = kill(engine.pid)
    replica.wait(timeout=RESTORED_S)
    gone = time.monotonic()
    assert gone - died < 2
    wait_until(lambda: len(load.answered_since(gone)) > 50, 120)
    wait_until(lambda: len(set(replicas().values()) - {replica.pid}) == 2, served.started_s + RESTORED_S)
    assert [one for one in load.failed() if one.begun > gone] == []
    swap_back_and_forth(served)


def test_of_two_replicas_one_dies_and_only_its_requests_fail(served, load):
    from llamafarm_ray.serving.ray_serve.replicas import num_loads

    before = replicas()
    pid = min(before.values())
    engine = psutil.Process(pid).children(recursive=True)
    assert engine
    died = kill(pid)
    wait_until(lambda: len(load.answered_since(died)) > 50, 120)
    psutil.wait_procs(engine, timeout=RESTORED_S)
    assert [one for one in engine if one.is_running()] == [], "the engine outlives its replica, with its memory"
    wait_until(lambda: len(set(replicas().values()) - {pid}) == 2, served.started_s + RESTORED_S)
    production = served.registry.refresh().models["bot"].aliases["production"][-1].version
    restored = [any(name.startswith(f"bot:{production}#") for name in loads) for loads in num_loads("llamafarm")]
    assert restored == [True, True], "a replica gets requests once it has loaded what they will ask for"
    swap_back_and_forth(served)
    failed = load.failed()
    assert [one for one in failed if one.begun > died] == []
    assert len(failed) <= NUM_CLIENTS
