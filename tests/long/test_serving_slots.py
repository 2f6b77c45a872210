"""Adapters come and go in a running vLLM: what it holds is what is needed, and no request ever notices."""

import json
import logging
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest
from adapters import greedy_ids, make_adapters
from process_tools import titled
from tiny_model import make_tiny_model

from llamafarm_ray.workflows.deployments.deployed import APPLICATION
from llamafarm_ray.workflows.versions.register import Registration, register

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

NUM_TOKENS = 32
PREFIX = [20 + (7 * place) % 300 for place in range(140)]
"""More than a block of vLLM's prefix cache, which is 128 tokens on a CPU."""
PROMPTS = [[*PREFIX, 300 + number, 20 + number] for number in range(6)]
MAX_LORAS = 4
SWAP_S = 0.4
"""A swap's second phase and the pause after it."""

logger = logging.getLogger(__name__)


@dataclass
class Slots:
    """The deployment, and what its versions must say."""

    url: str
    registry: object
    base: object
    folder: object
    oracle: dict[str, list[list[int]]] = field(default_factory=dict)
    """What each version says to each prompt, as far as rounding does not decide."""

    def add(self, models, *, prompts=PROMPTS, num_tokens=NUM_TOKENS):
        """Register adapters as the versions of models, the first of each as production; their references by model."""
        refs = {}
        for name, adapters in models.items():
            aliases = ["production", *[None] * (len(adapters) - 1)]
            made = [
                register(self.registry, Registration(adapter, name=name, alias=alias)).ref
                for adapter, alias in zip(adapters, aliases, strict=True)
            ]
            refs[name] = made
        if prompts:
            folders = [adapter for adapters in models.values() for adapter in adapters]
            answers = greedy_ids(self.base, folders, prompts, num_tokens)
            clear = [len(ids) / num_tokens for each in answers for ids in each]
            assert statistics.fmean(clear) >= 0.75, "rounding decides too much of what is compared"
            assert min(clear) > 0
            self.oracle |= dict(zip([ref for made in refs.values() for ref in made], answers, strict=True))
        return refs

    def ask(self, client, model, prompt, num_tokens=NUM_TOKENS):
        """The version that answered a prompt, its token ids, and the gaps between them in seconds."""
        body = {"model": model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
        body |= {"stream": True, "return_token_ids": True}
        ids, gaps, last, is_whole = [], [], None, False
        with client.stream("POST", f"{self.url}/completions", json=body) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    is_whole = True
                elif line.startswith("data: "):
                    event = json.loads(line[6:])
                    assert event["model"].partition("#")[0] == response.headers["x-llamafarm-model"]
                    ids += event["choices"][0]["token_ids"] or []
                    now = time.perf_counter()
                    gaps += [now - last] if last is not None else []
                    last = now
        assert is_whole, "the stream broke off"
        return response.headers["x-llamafarm-model"], ids, gaps

    def is_right(self, ref, number, ids, num_tokens=NUM_TOKENS):
        """Whether these ids are what a version says to a prompt."""
        expected = self.oracle[ref][number]
        return len(ids) == num_tokens and ids[: len(expected)] == expected

    def engine_names(self, refs):
        return sorted(f"{ref}#{self.registry.resolve(ref).registered.manifest[7:19]}" for ref in refs)

    def wait_until_held(self, models, refs, timeout_s=1.0):
        """Wait until vLLM holds these versions of some models and no others; how long that took."""
        from llamafarm_ray.serving.ray_serve.replicas import loaded

        names, begun = self.engine_names(refs), time.perf_counter()
        while True:
            held = [[name for name in replica if name.partition(":")[0] in models] for replica in loaded(APPLICATION)]
            took_s = time.perf_counter() - begun
            if all(replica == names for replica in held):
                return took_s
            assert took_s < timeout_s, f"vLLM holds {held}, not {names}"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def slots(ray_cluster, tmp_path_factory):
    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy

    folder = tmp_path_factory.mktemp("slots")
    base = make_tiny_model(folder / "tiny", hidden_size=128)
    registry = open_registry(str(folder / "home"))
    deployment = {"port": free_port(), "max_loras": MAX_LORAS, "max_lora_rank": 8}
    deployment["engine_kwargs"] = {"enable_prefix_caching": True, "enable_prompt_tokens_details": True}
    deployed = deploy(parse_config({"base_model": str(base), "deployment": deployment}), registry, ray_cluster)
    yield Slots(deployed.url, registry, base, folder)
    undeploy(registry, ray_cluster)


def num_cached(slots, model):
    """How many tokens of a prompt vLLM had computed before for this version."""
    body = {"model": model, "prompt": PROMPTS[0], "max_tokens": 1}
    usage = httpx.post(f"{slots.url}/completions", json=body, timeout=60).json()["usage"]
    return (usage["prompt_tokens_details"] or {"cached_tokens": 0})["cached_tokens"]


def swap(slots, ref):
    """Both phases, without asking the endpoint whether it follows."""
    from llamafarm_ray.serving.ray_serve.replicas import load_everywhere

    load_everywhere(APPLICATION, ref)
    begun = time.perf_counter()
    slots.registry.promote(ref, "production")
    return begun


def test_a_hundred_first_requests_to_a_cold_adapter_make_one_load(slots):
    from llamafarm_ray.serving.ray_serve.replicas import num_loads

    (ref,) = slots.add({"cold": make_adapters(slots.base, slots.folder / "cold", 1)})["cold"]
    limits = httpx.Limits(max_connections=100)
    with httpx.Client(timeout=120, limits=limits) as client, ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: slots.ask(client, "cold", PROMPTS[0]), range(100)))
    assert all(version == ref and slots.is_right(ref, 0, ids) for version, ids, _ in answers)
    assert [replica[slots.engine_names([ref])[0]] for replica in num_loads(APPLICATION)] == [1]


class Load:
    """Clients that ask for an alias without a pause, and check each answer against the version it names."""

    def __init__(self, slots, model, num_clients):
        self._slots, self._model = slots, model
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(num_clients)]
        self.failures, self.versions, self.gaps = [], [], []

    def __enter__(self):
        [thread.start() for thread in self._threads]
        return self

    def __exit__(self, *_):
        self._stop.set()
        [thread.join() for thread in self._threads]

    def _run(self, seed):
        draw = random.Random(seed)
        with httpx.Client(timeout=120) as client:
            while not self._stop.is_set():
                number = draw.randrange(len(PROMPTS))
                try:
                    version, ids, gaps = self._slots.ask(client, self._model, PROMPTS[number])
                except (httpx.HTTPError, AssertionError, KeyError) as error:
                    self.failures.append(repr(error))
                    continue
                if not self._slots.is_right(version, number, ids):
                    self.failures.append(f"{version} said {ids} to prompt {number}")
                self.versions.append(version)
                self.gaps += gaps


def p99(values):
    return statistics.quantiles(values, n=100)[98]


def test_two_hundred_swaps_under_load_mix_nothing_lose_nothing_and_stall_nobody(slots):
    refs = slots.add({"swapped": make_adapters(slots.base, slots.folder / "swapped", 6)})["swapped"]
    assert len({tuple(map(tuple, slots.oracle[ref])) for ref in refs}) == 6
    reached, num_swaps = [], 200

    def probe(client):
        return client.post(f"{slots.url}/completions", json={"model": "swapped", "prompt": "?", "max_tokens": 1})

    with httpx.Client(timeout=60) as client, Load(slots, "swapped", num_clients=3) as load:
        for _ in range(400):  # what the swaps are compared with has the same company
            probe(client)
            time.sleep(0.02)
        steady, load.gaps = load.gaps, []
        for number in range(num_swaps):
            ref = refs[(number + 1) % len(refs)]
            begun = swap(slots, ref)
            while probe(client).headers["x-llamafarm-model"] != ref:
                assert time.perf_counter() - begun < 10
                time.sleep(0.02)
            reached.append(time.perf_counter() - begun)
            time.sleep(max(0, SWAP_S - reached[-1]))
        swapping = load.gaps
    logger.info(
        "reached: p50 %.3f s, p99 %.3f s; %d streams", statistics.median(reached), p99(reached), len(load.versions)
    )
    logger.info("gaps: p99 %.1f ms, while swapping %.1f ms", p99(steady) * 1e3, p99(swapping) * 1e3)
    assert load.failures == []
    assert set(load.versions) == set(refs)
    assert num_cached(slots, "swapped") >= 128, "the prefix cache had no part in it"
    assert p99(reached) <= 2
    assert p99(swapping) <= 1.5 * p99(steady)


def resident_bytes():
    """What the replica and vLLM's engine core have in memory, by the names of their processes."""
    [engine] = titled("VLLM::")
    [replica] = (process for process in titled("ray::ServeReplica:") if "router" not in process.cmdline()[0])
    return {"engine": engine.memory_info().rss, "replica": replica.memory_info().rss}


def test_five_hundred_loads_and_unloads_leave_what_is_needed_and_nothing_else(slots):
    """Four aliases move at once, 125 times over."""
    adapters = make_adapters(slots.base, slots.folder / "cycled", 5 * MAX_LORAS)
    models = slots.add({f"cycled-{n}": adapters[n * 5 : n * 5 + 5] for n in range(MAX_LORAS)}, prompts=[])
    took, memory = [], []
    for turn in range(125):
        refs = [versions[(turn + 1) % len(versions)] for versions in models.values()]
        for ref in refs:
            swap(slots, ref)
        took.append(slots.wait_until_held(models, refs))
        if turn == 24:
            memory.append(resident_bytes())
    memory.append(resident_bytes())
    logger.info("equal after: p50 %.3f s, at most %.3f s; memory %s", statistics.median(took), max(took), memory)
    warm, after = (sum(each.values()) for each in memory)
    assert after < 1.02 * warm


def test_a_retired_version_is_gone_within_a_second(slots):
    _, ref = slots.add({"ended": make_adapters(slots.base, slots.folder / "ended", 2)})["ended"]
    with httpx.Client(timeout=60) as client:
        version, ids, _ = slots.ask(client, ref, PROMPTS[0])
        assert version == ref
        assert slots.is_right(ref, 0, ids)
        slots.wait_until_held({"ended"}, [ref])
        slots.registry.retire(ref)
        slots.wait_until_held({"ended"}, [])
        assert client.post(f"{slots.url}/completions", json={"model": ref, "prompt": "?"}).status_code == 404


def test_hundreds_of_adapters_take_turns_in_four_slots(slots):
    """Zipf traffic: the n-th adapter is asked for 1/n times as often as the first."""
    num_adapters, num_requests, num_tokens = 300, 1500, 8
    adapters = make_adapters(slots.base, slots.folder / "many", num_adapters)
    models = {f"many-{number}": [adapter] for number, adapter in enumerate(adapters)}
    refs = [ref for made in slots.add(models, prompts=PROMPTS[:1], num_tokens=num_tokens).values() for ref in made]
    asked = random.Random(0).choices(refs, [1 / (rank + 1) for rank in range(num_adapters)], k=num_requests)
    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(16) as pool:
        begun = time.perf_counter()
        answers = list(
            pool.map(lambda ref: slots.ask(client, ref.partition(":")[0], PROMPTS[0], num_tokens)[:2], asked)
        )
        took_s = time.perf_counter() - begun
    logger.info("%.1f requests/s of %d adapters", num_requests / took_s, len(set(asked)))
    for ref, (version, ids) in zip(asked, answers, strict=True):
        assert version == ref
        assert slots.is_right(ref, 0, ids, num_tokens)


def test_the_only_replica_dies_and_who_asks_meanwhile_waits_for_the_next_one(slots):
    """The last test of this deployment: its engine is another one from here on."""
    (ref,) = slots.add({"kept": make_adapters(slots.base, slots.folder / "kept", 1)})["kept"]
    [replica] = titled("ray::ServeReplica:")
    with httpx.Client(timeout=300) as client, ThreadPoolExecutor(8) as pool:
        assert slots.ask(client, "kept", PROMPTS[0])[0] == ref
        replica.kill()
        replica.wait(30)
        begun = time.perf_counter()
        answers = list(pool.map(lambda number: slots.ask(client, "kept", PROMPTS[number % 6]), range(8)))
    logger.info("answered %.1f s after the replica's death", time.perf_counter() - begun)
    for number, (version, ids, _) in enumerate(answers):
        assert version == ref
        assert slots.is_right(ref, number % 6, ids)
