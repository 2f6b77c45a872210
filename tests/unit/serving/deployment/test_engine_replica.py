"""A replica without Ray around it: from a registered bottleneck adapter to its answer over HTTP."""

import asyncio
import dataclasses
import datetime as dt
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from method_models import randomise, reload, trained, wrapped
from patience import patience
from ray import serve
from tiny_model import make_tiny_model

from llamafarm_ray.errors import NotFoundError, UserError
from llamafarm_ray.registry import RegistryService, find_base
from llamafarm_ray.registry.commands import StartRollout
from llamafarm_ray.registry.rollouts import CanaryPlan, Step
from llamafarm_ray.serving.deployment import adapter_manager
from llamafarm_ray.serving.deployment.adapter_manager import AdapterManager, Served
from llamafarm_ray.serving.deployment.engine_replica import EngineReplica, EngineSettings
from llamafarm_ray.serving.journal import journal
from llamafarm_ray.serving.journal.files import read_journal
from llamafarm_ray.serving.journal.ledger import Devices
from llamafarm_ray.serving.routing.traffic_split import NOBODY
from llamafarm_ray.serving.selection.peers import Figures, Known, Peer
from llamafarm_ray.storage import ContentStore, Location
from llamafarm_ray.types import Digest, ModelKind, ModelRef
from llamafarm_ray.workflows.versions.register import Registration, register, stated

PROMPT = "The capital of France"


class View:
    """A registry's state, read from its log when it is asked for, as the real view does with the registry actor."""

    def __init__(self, home):
        self._registry = RegistryService(Location(home))
        self.num_refreshed = 0
        self.on_change = lambda: None

    @property
    def state(self):
        return self._registry.state

    async def start(self):
        await self.refresh()

    async def refresh(self, *, within_s=60.0):  # noqa: ARG002
        self._registry.refresh()
        self.num_refreshed += 1
        self.on_change()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("replica") / "tiny")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    method, model = wrapped(base, "adapter")
    randomise(model)
    folder = tmp_path_factory.mktemp("adapter")
    method.save(model, trained(model), folder)
    return folder


@pytest.fixture(scope="module")
def newer(base, tmp_path_factory):
    """Another version of it."""
    method, model = wrapped(base, "adapter")
    randomise(model)
    folder = tmp_path_factory.mktemp("newer")
    method.save(model, {name: 2 * value for name, value in trained(model).items()}, folder)
    return folder


@pytest.fixture
def registry(tmp_path, adapter):
    registry = RegistryService(Location(tmp_path / "home"))
    register(registry, Registration(adapter, name="bot", alias="production", facts=stated(method="adapter")))
    return registry


def no_controller(*_):
    raise ValueError("there is none")


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch):
    monkeypatch.setattr(adapter_manager, "RegistryView", View)
    monkeypatch.setattr(adapter_manager, "start_controller", lambda *_: None)
    monkeypatch.setattr(adapter_manager, "controller_actor", no_controller)
    monkeypatch.setattr(adapter_manager, "connect", lambda home: RegistryService(Location(home)))
    monkeypatch.setattr(adapter_manager, "_place", lambda _: ("http://127.0.0.1:8000/v1", "127.0.0.1:6379"))
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(app_name="test"))


async def replica_of(registry, base, *preload):
    found = find_base(str(base), registry)
    replica = EngineReplica.__new__(EngineReplica)
    served = Served(registry.home.uri, found.name, found.digest, preload, devices=Devices(num_cpus=1))
    await replica.__init__(EngineSettings("transformers", found.name, found.folder), served, num_cpus=1)
    return replica


async def ask(replica, model, **headers):
    app = await replica.__serve_build_asgi_app__()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        return await client.post("/v1/completions", json=body, headers=headers)


def oracle(base, folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(base))
    inputs = tokenizer(PROMPT, return_tensors="pt")
    out = reload(base, folder).generate(**inputs, max_new_tokens=12, do_sample=False)
    text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def test_a_registered_bottleneck_adapter_answers_as_in_plain_peft(registry, base, adapter):
    async def scenario():
        replica = await replica_of(registry, base, "bot@production")
        assert list(replica.num_loads().values()) == [1]
        return [await ask(replica, model) for model in ("bot", "bot@production", "tiny")]

    by_name, by_alias, by_base = asyncio.run(scenario())
    assert by_name.json()["choices"][0]["text"] == by_alias.json()["choices"][0]["text"] == oracle(base, adapter)
    assert by_name.headers["x-llamafarm-model"] == "bot:1.0.0"
    assert by_name.headers["x-llamafarm-digest"] == registry.resolve("bot").registered.manifest
    assert by_base.headers["x-llamafarm-model"] == "tiny"
    assert by_base.json()["choices"][0]["text"] != oracle(base, adapter)


def test_a_replica_records_its_requests_below_the_home_by_itself(registry, base, monkeypatch):
    monkeypatch.setattr(journal, "_WRITE_S", 0.01)

    def pages():
        return list(read_journal(registry.home))

    async def scenario():
        replica = await replica_of(registry, base, "bot@production")
        await ask(replica, "bot")
        async with asyncio.timeout(patience(30)):
            while not any(page.usage.rows for page in pages()):  # noqa: ASYNC110  (the file tells nobody)
                await asyncio.sleep(0.01)

    asyncio.run(scenario())
    (page,) = pages()
    ((key, used),) = page.usage.rows.items()
    assert (page.application, page.num_cpus) == ("test", 1)
    assert (key.ref, key.route, used.num_requests, used.answer_tokens) == ("bot:1.0.0", "/v1/completions", 1, 12)
    (block,) = page.blocks["bot:1.0.0"]
    assert (block.num_answered, block.num_checked, block.num_empty) == (1, 1, 0)


def test_a_version_registered_later_is_found_and_loaded_once(registry, base, adapter):
    async def scenario():
        replica = await replica_of(registry, base)
        register(registry, Registration(adapter, name="late", facts=stated(method="adapter")))
        assert await replica.load("late") == (await replica.load("late:1.0.0"))
        responses = await asyncio.gather(*(ask(replica, "late") for _ in range(5)))
        assert {response.status_code for response in responses} == {200}
        assert list(replica.num_loads().values()) == [1]
        with pytest.raises(NotFoundError):
            await replica.load("never")

    asyncio.run(scenario())


def test_a_new_replica_has_loaded_what_aliases_and_rollouts_need(registry, base, adapter, newer):
    register(registry, Registration(newer, name="bot", alias="staging", facts=stated(method="adapter")))
    for folder in (adapter, newer):
        register(registry, Registration(folder, name="other", facts=stated(method="adapter")))
    registry.promote(ModelRef.parse("other:1.0.0"), "production")
    plan = CanaryPlan(steps=(Step(percent=5, dwell_s=3600),))
    registry.submit(StartRollout(ModelRef.parse("other:1.1.0"), "production", plan))

    async def scenario():
        replica = await replica_of(registry, base, "bot:1.0.0")
        loaded = {name.partition("#")[0]: num for name, num in replica.num_loads().items()}
        assert loaded == dict.fromkeys(["bot:1.0.0", "bot:1.1.0", "other:1.0.0", "other:1.1.0"], 1)

    asyncio.run(scenario())


def test_a_candidate_that_can_not_be_loaded_keeps_no_replica_from_starting(registry, base, newer, monkeypatch):
    register(registry, Registration(newer, name="bot", alias="staging", facts=stated(method="adapter")))
    load = AdapterManager.prepare

    async def prepare(self, model):
        if model == "bot:1.1.0":
            raise UserError("it is broken")
        return await load(self, model)

    monkeypatch.setattr(AdapterManager, "prepare", prepare)

    async def scenario():
        replica = await replica_of(registry, base, "bot:1.0.0")
        assert [name.partition("#")[0] for name in replica.num_loads()] == ["bot:1.0.0"]
        assert (await ask(replica, "bot:1.0.0")).status_code == 200

    asyncio.run(scenario())


def test_the_version_that_an_alias_left_is_unloaded_and_its_files_may_be_evicted(registry, base, tmp_path):
    method, model = wrapped(base, "adapter")
    method.save(model, trained(model), tmp_path)
    register(registry, Registration(tmp_path, name="bot", facts=stated(method="adapter")))

    async def scenario():
        replica = await replica_of(registry, base, "bot@production")
        (former,) = replica.loaded()
        latest = await replica.load("bot:1.1.0")
        assert replica.loaded() == sorted([former, latest])
        registry.promote("bot:1.1.0", "production")
        await replica._versions._view.refresh()
        async with asyncio.timeout(patience(1)):
            while replica.loaded() != [latest]:  # noqa: ASYNC110 - of an engine that tells nobody
                await asyncio.sleep(0.01)
        assert (await ask(replica, "bot")).headers["x-llamafarm-model"] == "bot:1.1.0"
        in_use = {cached.digest for cached in ContentStore(Location(tmp_path / "home")).cached() if cached.in_use}
        assert in_use == {registry.resolve("bot:1.1.0").registered.manifest}

    asyncio.run(scenario())


def test_an_unknown_name_asks_the_registry_again_but_not_each_time(registry, base, monkeypatch):
    monkeypatch.setattr(adapter_manager, "_LOOK_AGAIN_S", 3600.0)
    monkeypatch.setattr(adapter_manager, "_REGISTRY_S", 0.5)

    async def scenario():
        replica = await replica_of(registry, base)
        view = replica._versions._view
        before = view.num_refreshed
        assert [(await ask(replica, "never")).status_code for _ in range(3)] == [404] * 3
        assert view.num_refreshed == before + 1

    asyncio.run(scenario())


def test_the_routers_header_is_believed_from_nobody(registry, base):
    async def scenario():
        replica = await replica_of(registry, base)
        return await ask(replica, "tiny", serve_multiplexed_model_id="bot:1.0.0")

    assert asyncio.run(scenario()).headers["x-llamafarm-model"] == "tiny"


def test_rollouts_are_watched_here_too(registry, base, monkeypatch):
    started = []
    monkeypatch.setattr(adapter_manager, "start_controller", lambda *asked: started.append(asked))

    async def scenario():
        replica = await replica_of(registry, base)
        async with asyncio.timeout(patience(20)):
            while not registry.refresh().deployments:  # noqa: ASYNC110  (a file is looked at)
                await asyncio.sleep(0.01)
        return await replica.rollout_report("none", dt.datetime.now(dt.UTC))

    report = asyncio.run(scenario())
    assert [application for _, application, _ in started] == ["test"]
    assert registry.state.deployments["test"].url == "http://127.0.0.1:8000/v1"
    assert list(report.windows) == []


def test_a_controller_that_is_late_leaves_what_it_said_for_a_while(registry, base, monkeypatch):
    said = Known(Figures(("chat",)), (Peer("b", "/b", "large", Digest.of(b"large")),))

    class Controller:
        is_late = False

        @property
        def known(self):
            return self

        async def remote(self):
            if self.is_late:
                await asyncio.Event().wait()
            return said

    controller = Controller()
    monkeypatch.setattr(adapter_manager, "controller_actor", lambda *_: controller)
    monkeypatch.setattr(adapter_manager, "_MEASURE_S", 0.0)

    async def scenario():
        replica = await replica_of(registry, base)
        found = replica._versions
        before = await found._known.get()
        controller.is_late = True
        monkeypatch.setattr(adapter_manager, "_ASK_S", 0.01)
        late = await found._known.get()
        found._heard._stands_s = 0.0
        return before, late, await found._known.get()

    before, late, given_up = asyncio.run(scenario())
    assert before is late is said
    assert given_up.peers == ()
    assert given_up.figures.kinds == ("chat", "completions")


def test_a_replica_without_a_controller_chooses_by_what_it_measured_itself(registry, base):
    async def scenario():
        replica = await replica_of(registry, base)
        await ask(replica, "bot")
        (before,) = [one for one in await replica._versions.offers(NOBODY, ()) if one.model == "bot"]
        chosen = await ask(replica, "auto", **{"x-llamafarm-max-latency-ms": "60000"})
        return before, chosen, await replica.activity()

    before, chosen, activity = asyncio.run(scenario())
    assert before.latency_ms > 0
    assert chosen.headers["x-llamafarm-model"] in {"bot:1.0.0", "tiny"}
    assert activity.loaded == (f"bot:1.0.0#{registry.resolve('bot').registered.manifest[7:19]}",)
    assert activity.base_model == "tiny"
    assert activity.seen["bot:1.0.0"].minute.requests >= 1


@pytest.fixture
def elsewhere(registry, base):
    """The base model, registered, as another node found it: at a path that is not here."""
    registry.register(base, name="tiny", kind=ModelKind.BASE)
    return dataclasses.replace(find_base("tiny:1.0.0", registry), folder=Path("/nowhere/tiny"))


def served_from(registry, found):
    return Served(registry.home.uri, found.name, found.digest, base_reference=found.reference)


def test_a_replica_fetches_the_base_model_that_its_node_does_not_have(registry, elsewhere):
    async def scenario():
        replica = EngineReplica.__new__(EngineReplica)
        settings = EngineSettings("transformers", elsewhere.name, elsewhere.folder)
        await replica.__init__(settings, served_from(registry, elsewhere), num_cpus=1)
        return await ask(replica, "tiny")

    assert asyncio.run(scenario()).status_code == 200


def test_vllm_gets_the_base_model_of_its_own_node(registry, elsewhere, base, monkeypatch):
    from llamafarm_ray import serving
    from llamafarm_ray.serving.deployment import vllm_replica

    started = []

    client = SimpleNamespace(
        model_config=SimpleNamespace(dtype="torch.bfloat16"),
        output_processor=SimpleNamespace(process_outputs=None),
        errored=False,
    )

    class Server:
        engine = SimpleNamespace(_oai_models=SimpleNamespace(engine_client=client))

        async def start(self):
            pass

    def server(llm_config):
        started.append(Path(llm_config["model_loading_config"]["model_source"]))
        return Server()

    stub = SimpleNamespace(server=server)
    monkeypatch.setitem(sys.modules, "llamafarm_ray.serving.engines.vllm.ray_llm", stub)
    monkeypatch.setattr(serving, "ray_llm", stub, raising=False)
    monkeypatch.setattr(vllm_replica.ray, "get_runtime_context", lambda: SimpleNamespace(get_temp_dir=lambda: "ray"))
    monkeypatch.setattr(vllm_replica, "keep_sockets_in", lambda _: None)
    replica = vllm_replica.VllmReplica.__new__(vllm_replica.VllmReplica)
    loading = {"model_id": "tiny", "model_source": str(elsewhere.folder)}
    config = {"model_loading_config": loading, "accelerator_config": {"kind": "gpu"}, "engine_kwargs": {}}
    asyncio.run(replica.__init__(config, served_from(registry, elsewhere), num_cpus=1))
    (folder,) = started
    assert (folder / "config.json").read_bytes() == (base / "config.json").read_bytes()
