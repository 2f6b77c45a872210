"""What a deployment serves and records, without a cluster."""

import contextlib
import dataclasses
import logging
import sys
from types import SimpleNamespace

import httpx
import pytest
from model_files import gguf_bytes
from tiny_adapters import write_adapter, write_base

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import AccessDeniedError, ConflictError, DeploymentError, InputError, NotFoundError
from llamafarm_ray.registry import DeploymentRecorded, RegistryService
from llamafarm_ray.registry.commands import RecordDeployment
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.serving.rollouts.start import roll_out
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.clusters.cluster import ClusterInfo
from llamafarm_ray.workflows.deployments.deploy import check_deployment, deploy, with_model
from llamafarm_ray.workflows.deployments.deployed import APPLICATION, deployment_of, deployments_for, swap_adapter
from llamafarm_ray.workflows.deployments.undeploy import undeploy
from llamafarm_ray.workflows.versions.register import Registration, register, stated

HERE = ClusterInfo("127.0.0.1:6379", "", started_here=True, is_local=True)


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"))


@pytest.fixture
def models(tmp_path):
    base = write_base(tmp_path / "base")
    return base, write_adapter(tmp_path / "bot", base)


def record(registry, url="http://127.0.0.1:1/v1", ray_address=HERE.address):
    event = DeploymentRecorded(
        application=APPLICATION, base_model="base", base_digest=Digest.of(b"x"), url=url, ray_address=ray_address
    )
    registry.submit(RecordDeployment(event))


def test_an_adapters_folder_is_registered_and_brings_its_base(registry, models):
    base, adapter = models
    config = with_model(parse_config({}), registry, str(adapter))
    assert config.base_model == str(base)
    assert config.deployment.adapters == ("bot:1.0.0",)


def test_an_endpoint_that_would_be_open_to_the_network_is_not_deployed(registry, models):
    (models[0] / "tokenizer.json").write_text("{}")

    def config(**deployment):
        return parse_config({"base_model": str(models[0]), "deployment": {"host": "10.0.0.1", **deployment}})

    with pytest.raises(InputError, match=r"deployment\.host '10\.0\.0\.1' is open to the network"):
        check_deployment(config(), registry)
    assert check_deployment(config(require_key=False), registry).name == "base"
    token = registry.add_principal("root", {"*": Role.ADMIN})
    registry = RegistryService(registry.home, token=token)
    assert check_deployment(config(), registry).name == "base"


def test_too_little_memory_is_known_before_anything_starts(registry, models):
    config = parse_config({"base_model": str(models[0]), "deployment": {"resources": {"memory": 1}}})
    (models[0] / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"deployment\.resources\.memory is 1, and the weights of base alone take"):
        check_deployment(config, registry)


def test_a_deployment_for_kubernetes_is_not_started_on_ray(registry, models):
    config = parse_config({"base_model": str(models[0]), "deployment": {"target": "kubernetes"}})
    with pytest.raises(InputError, match=r"deployment\.target is kubernetes"):
        check_deployment(config, registry)


def test_a_base_model_is_the_base(registry, models):
    assert with_model(parse_config({}), registry, str(models[0])).base_model == str(models[0])


def test_a_base_among_the_adapters_is_a_mistake(registry, models):
    config = parse_config({"base_model": "x", "deployment": {"adapters": [str(models[0])]}})
    with pytest.raises(InputError, match=r"deployment\.adapters"):
        with_model(config, registry, None)


def test_other_files_of_a_model_are_deployed_beside_one_of_them(registry, models, tmp_path):
    base, _ = models
    refs = []
    for name in ("q4", "q5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.gguf").write_bytes(gguf_bytes(general__name=name))
        refs.append(
            register(registry, Registration(tmp_path / name, name="bot", facts=stated(base_model=str(base)))).ref
        )
    wanted = parse_config({"deployment": {"adapters": [refs[1]]}})
    config = with_model(wanted, registry, refs[0])
    assert (config.base_model, config.deployment.adapters) == ("bot:1.0.0", ("bot:1.1.0",))
    assert check_deployment(config, registry).digest == registry.resolve(refs[0]).registered.manifest
    event = DeploymentRecorded(
        application=APPLICATION,
        base_model="bot",
        base_digest=registry.resolve(refs[0]).registered.manifest,
        url="http://x/v1",
        ray_address="a:1",
    )
    registry.submit(RecordDeployment(event))
    assert [one.base_model for one in deployments_for(registry, refs[1])] == ["bot"]


def test_of_several_deployments_those_that_serve_a_version_are_found(registry, models):
    adapter = register(registry, Registration(models[1])).registered

    def recorded(application, digest):
        event = DeploymentRecorded(
            application=application, base_model=application, base_digest=digest, url="http://x/v1", ray_address="a:1"
        )
        registry.submit(RecordDeployment(event))

    recorded("qwen", Digest.of(b"x"))
    with pytest.raises(NotFoundError, match=r"bot:1\.0\.0 is for .*, and 'qwen' is deployed"):
        deployments_for(registry, "bot")
    assert deployment_of(registry).application == "qwen"
    recorded("llama", adapter.base_digest)
    recorded("blue", adapter.base_digest)
    assert [one.application for one in deployments_for(registry, "bot")] == ["blue", "llama"]
    with pytest.raises(InputError, match="Several applications are deployed: blue at http://x/v1, llama at"):
        deployment_of(registry)
    recorded(APPLICATION, Digest.of(b"y"))
    assert deployment_of(registry).application == APPLICATION


def test_a_swap_loads_at_every_application_of_the_cluster_that_serves_it(registry, models, monkeypatch):
    adapter = register(registry, Registration(models[1])).registered
    for application in ("llama", "blue", "gone", "idle", "sick", "theirs"):
        event = DeploymentRecorded(
            application=application,
            base_model="base",
            base_digest=adapter.base_digest,
            url=f"http://{application}/v1",
            ray_address="a:1",
        )
        registry.submit(RecordDeployment(event))
    asked, confirmed = [], []

    def load_everywhere(application, reference):
        assert "production" not in registry.refresh().models["bot"].aliases
        asked.append((application, reference))
        return [] if application == "idle" else ["engine name"]

    stub = SimpleNamespace(
        load_everywhere=load_everywhere,
        home_of=lambda application: "file:///their/home" if application == "theirs" else registry.home.uri,
        is_serving={"llama", "blue", "idle", "theirs"}.__contains__,
        url_of={"llama": "http://llama:2/v1"}.get,
    )
    for module in ("replicas", "state"):
        monkeypatch.setitem(sys.modules, f"llamafarm_ray.serving.ray_serve.{module}", stub)
    monkeypatch.setattr("llamafarm_ray.workflows.deployments.deployed._confirm", lambda *args: confirmed.append(args))
    assert swap_adapter(registry, "bot", "production").ref == "bot:1.0.0"
    assert asked == [(name, "bot:1.0.0") for name in ("blue", "idle", "llama")]
    urls = ("http://blue/v1", "http://llama:2/v1")
    assert confirmed == [(url, "bot@production", "bot:1.0.0") for url in urls]
    assert registry.resolve("bot@production").ref == "bot:1.0.0"


def test_stopping_takes_only_its_own_deployment_off_the_record(registry):
    record(registry)
    record(registry, "http://127.0.0.1:2/v1", ray_address="127.0.0.1:6380")
    undeploy(registry, HERE)
    assert deployment_of(registry).url == "http://127.0.0.1:2/v1"
    undeploy(registry, dataclasses.replace(HERE, address="127.0.0.1:6380"))
    undeploy(registry, HERE)
    with pytest.raises(NotFoundError, match="Nothing is deployed"):
        deployment_of(registry)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_deployment_that_fails_leaves_no_record_that_its_replicas_made(registry, models, monkeypatch, replaced):
    """Nor takes one away: what it was to replace may go on."""
    from ray import serve

    from llamafarm_ray.serving import application
    from llamafarm_ray.serving.ray_serve import state
    from llamafarm_ray.workflows.deployments import deploy as module

    status = SimpleNamespace(
        applications={APPLICATION: SimpleNamespace(deployments={}, status=SimpleNamespace(value="RUNNING"), message="")}
    )
    deleted = []

    def run(*_):
        record(registry)  # as a replica does once it runs
        raise RuntimeError("the second replica's engine died")

    (models[0] / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(state, "http_address", lambda: ("127.0.0.1", 8000) if replaced else None)
    monkeypatch.setattr(serve, "status", lambda: status)
    monkeypatch.setattr(serve, "delete", deleted.append)
    monkeypatch.setattr(application, "build", lambda _: None)
    monkeypatch.setattr(module, "_serve_started", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(module, "_run", run)
    with pytest.raises(DeploymentError, match="the second replica's engine died"):
        deploy(parse_config({"base_model": str(models[0])}), registry, HERE)
    assert deleted == ([] if replaced else [APPLICATION])
    assert list(registry.refresh().deployments) == ([APPLICATION] if replaced else [])


def test_a_home_that_another_cluster_serves_is_not_deployed_a_second_time(registry, models, monkeypatch):
    (models[0] / "tokenizer.json").write_text("{}")
    said = httpx.Response(200, json={"data": [{"id": "base"}]})
    monkeypatch.setattr(httpx, "get", lambda url, **_: said if url == "http://10.0.0.9:8000/v1/models" else None)
    record(registry, "http://10.0.0.9:8000/v1", "10.0.0.9:6379")
    with pytest.raises(
        ConflictError, match=r"served at http://10\.0\.0\.9:8000/v1 already, by the Ray at 10\.0\.0\.9:6379"
    ):
        deploy(parse_config({"base_model": str(models[0])}), registry, HERE)
    assert registry.refresh().deployments[APPLICATION].ray_address == "10.0.0.9:6379"


def test_who_may_not_move_the_alias_keeps_no_replica_busy(registry, models, monkeypatch):
    adapter = register(registry, Registration(models[1]))
    event = DeploymentRecorded(
        application=APPLICATION,
        base_model="base",
        base_digest=adapter.registered.base_digest,
        url="http://127.0.0.1:1/v1",
        ray_address="a:1",
    )
    registry.submit(RecordDeployment(event))
    root = RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))
    viewer = RegistryService(registry.home, token=root.add_principal("vic", {"*": Role.VIEWER}))
    loaded = []
    stub = SimpleNamespace(load_everywhere=lambda *args: loaded.append(args))
    monkeypatch.setitem(sys.modules, "llamafarm_ray.serving.ray_serve.replicas", stub)
    with pytest.raises(AccessDeniedError, match="move alias"):
        swap_adapter(viewer, adapter.ref, "production")
    assert loaded == []


def adapter_with(folder, text):
    """A folder of another adapter, of the same base."""
    other = folder.with_name(f"{folder.name}-{text}")
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "README.md").write_text(text)
    return other


@pytest.fixture
def versions(registry, models):
    """``bot`` 1.0.0 to 1.2.0, none of them production."""
    folders = [models[1], *(adapter_with(models[1], text) for text in "bc")]
    return [register(registry, Registration(folder, name="bot")).ref for folder in folders]


CANARY = parse_config({"deployment": {"strategy": "canary"}}).deployment.rollout


def test_a_strategy_rolls_out_what_is_not_yet_production(registry, versions):
    assert roll_out(registry, versions[:1], CANARY) == []
    assert registry.resolve("bot@production").ref == "bot:1.0.0"  # the first has nothing to be compared with
    assert roll_out(registry, versions[:1], CANARY) == []
    assert roll_out(registry, versions[:2], CANARY, dry_run=True) == []
    assert registry.state.rollout_under_way("bot", "production") is None
    (started,) = roll_out(registry, versions[:2], CANARY, reason="deploy")
    assert (started.candidate, started.percent, started.changes[0].reason) == ("1.1.0", 5, "deploy")
    assert roll_out(registry, versions[1:2], CANARY) == [started]  # deployed again: it goes on
    assert registry.resolve("bot@production").ref == "bot:1.0.0"


def test_one_version_is_rolled_out_at_a_time_and_that_is_known_before_anything_starts(registry, models, versions):
    roll_out(registry, versions[:1], CANARY)
    roll_out(registry, versions[1:2], CANARY)
    (models[0] / "tokenizer.json").write_text("{}")
    deployment = {"strategy": "canary", "adapters": [versions[2]]}
    config = parse_config({"base_model": str(models[0]), "deployment": deployment})
    with pytest.raises(ConflictError, match=r"bot:1\.1\.0 is being rolled out to bot@production, so 1\.2\.0 can't be"):
        check_deployment(config, registry)
    at_once = parse_config({"base_model": str(models[0]), "deployment": {"adapters": [versions[2]]}})
    assert check_deployment(at_once, registry).name == "base"


def test_what_serve_says_of_a_deletion_stays_off_the_terminal(registry, monkeypatch):
    from ray import serve

    from llamafarm_ray.serving.deployment import rollout_actor

    levels, logger = [], logging.getLogger("ray.serve")
    before = logger.level
    monkeypatch.setattr(serve, "delete", lambda _: levels.append(logger.getEffectiveLevel()))
    monkeypatch.setattr(rollout_actor, "stop_controller", lambda *_: None)
    logger.setLevel(logging.INFO)  # as the import of Serve leaves it
    try:
        undeploy(registry, dataclasses.replace(HERE, started_here=False))
    finally:
        logger.setLevel(before)
    assert levels == [logging.WARNING]
