"""The registry through the cluster's actor: the same calls, and watchers that learn of every change."""

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from model_files import note_digest, safetensors_bytes, store_note
from patience import patience

from llamafarm_ray.errors import AccessDeniedError, ConflictError, NotFoundError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import Register
from llamafarm_ray.registry.gc import collect
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.registry.remote.actor import registry_actor
from llamafarm_ray.registry.remote.client import RegistryClient
from llamafarm_ray.registry.remote.view import RegistryView
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def client(tmp_path, ray_cluster):
    del ray_cluster
    made = RegistryClient(str(tmp_path / "home"), cache=tmp_path / "cache")
    store_note(made.content, "x")
    yield made
    ray.kill(registry_actor(made.home.uri))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_model.safetensors").write_bytes(safetensors_bytes())
    return made


def next_version(model="bot"):
    return Register(model, ModelKind.CUSTOM, note_digest("x"), 1)


def test_the_same_calls_give_the_same(client, folder, tmp_path):
    client.register(folder, name="bot", kind=ModelKind.ADAPTER, metrics={"accuracy": 0.9})
    client.register(folder, name="bot", kind=ModelKind.ADAPTER)
    client.promote("bot:1.0.0", "production")
    client.promote("bot:1.1.0", "production", reason="better")
    assert client.rollback("bot", "production").ref == "bot:1.0.0"
    assert (client.pull("bot") / "adapter_model.safetensors").is_file()
    direct = RegistryService(Location(tmp_path / "home"))
    assert direct.state == client.refresh()
    with pytest.raises(ConflictError, match="registered already"):
        client.register(folder, name="bot", kind=ModelKind.ADAPTER, version="1.0.0")
    with pytest.raises(NotFoundError, match="Did you mean bot"):
        client.promote("bod", "production")


def test_a_collector_s_condemnation_reaches_a_publisher_through_the_actor(client, folder, monkeypatch, tmp_path):
    import datetime as dt

    publish, rounds = client.content.publish, []
    direct = RegistryService(Location(tmp_path / "home"))

    def interrupted(path, **options):
        manifest = publish(path, **options)
        if not rounds:
            rounds.append(collect(direct, grace=dt.timedelta(0), dry_run=False).blobs)
        return manifest

    monkeypatch.setattr(client.content, "publish", interrupted)
    client.register(folder, name="bot", kind=ModelKind.ADAPTER)
    assert rounds == [2]  # what is being published, and the note that nobody registered
    assert verify(client.home).problems == ()


def test_each_caller_s_token_counts(client, tmp_path):
    client.submit(next_version())
    root = RegistryClient(client.home.uri, token=client.add_principal("root", {"*": Role.ADMIN}))
    viewer = RegistryClient(client.home.uri, token=root.add_principal("vic", {"*": Role.VIEWER}))
    with pytest.raises(AccessDeniedError, match="'vic' may not move alias"):
        viewer.promote("bot:1.0.0", "production")
    with pytest.raises(AccessDeniedError, match="none was given"):
        RegistryClient(client.home.uri, cache=tmp_path).resolve("bot")
    root.promote("bot:1.0.0", "production")
    assert viewer.resolve("bot@production").ref == "bot:1.0.0"


@pytest.mark.long  # the short tier kills it again and again: test_registry_actor.py
def test_an_actor_that_is_killed_loses_and_doubles_nothing(client):
    actor = registry_actor(client.home.uri)
    pid = ray.get(actor.pid.remote())
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client.submit, next_version()) for _ in range(60)]
        while client.refresh().sequence < 1:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        outcomes = [call.result() for call in calls]
    numbers = [outcome.events[0].version for outcome in outcomes]
    assert len(set(numbers)) == 60
    assert set(client.refresh().models["bot"].versions) == set(numbers)
    assert ray.get(actor.pid.remote()) != pid
    assert verify(client.home, blobs=False).problems == ()


def test_a_watcher_learns_of_each_change_within_a_second(client, tmp_path):
    direct = RegistryService(Location(tmp_path / "home"))

    async def scenario():
        view = RegistryView(client.home.uri)
        await view.start()
        delays = []
        for writer in (client, direct) * 5:
            before = view.state.sequence
            await asyncio.to_thread(writer.submit, next_version())
            started = time.monotonic()
            while view.state.sequence == before:  # noqa: ASYNC110  (what is measured is when it arrives by itself)
                await asyncio.sleep(0.002)
            delays.append(time.monotonic() - started)
        await view.stop()
        return delays

    assert sorted(asyncio.run(scenario()))[-2] < patience(1)


def test_a_watcher_that_missed_much_gets_the_whole_state(client, tmp_path):
    async def scenario():
        view = RegistryView(client.home.uri)
        await view.refresh()
        assert not view.state.models
        direct = RegistryService(Location(tmp_path / "home"))
        for _ in range(30):
            direct.submit(next_version())
        ray.kill(registry_actor(client.home.uri), no_restart=False)  # comes back from a snapshot, and knows no commit
        direct._snapshots.last_sequence = -10_000
        direct.submit(next_version())
        direct.close()
        async with asyncio.timeout(patience(10)):
            while True:
                try:
                    await view.refresh()
                except ray.exceptions.RayActorError:
                    await asyncio.sleep(0.1)
                else:
                    return view.state

    assert asyncio.run(scenario()) == RegistryService(Location(tmp_path / "home")).state
