"""The registry's actor is killed again and again, and shares its home: nothing acknowledged is lost or done twice."""

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from patience import patience
from registry_crash import make_folders

from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import MoveAlias, Register
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind, ModelRef

pytestmark = pytest.mark.usefixtures("ray_cluster")

CLIENTS = 8
CHANGES = 40


@pytest.fixture
def home(tmp_path):
    return str(tmp_path / "home")


@pytest.fixture
def manifest(home, tmp_path):
    return RegistryService(Location(home)).content.publish(make_folders(tmp_path / "folders") / "one").digest


class Acknowledged:
    """What writers were told, by idempotency key; others can wait until there is more of it."""

    def __init__(self):
        self.sequences = {}
        self._changed = threading.Condition()

    def add(self, key, outcome):
        with self._changed:
            assert key not in self.sequences
            self.sequences[key] = outcome.sequence
            self._changed.notify_all()

    def wait_for_more(self, number):
        with self._changed:
            goal = len(self.sequences) + number
            assert self._changed.wait_for(lambda: len(self.sequences) >= goal, timeout=120)


def keep_writing(registry, manifest, writer, acknowledged, end):
    """Register versions of the shared model until the end."""
    number = 0
    while not end.is_set():
        key, number = f"{writer}-{number}", number + 1
        command = Register("bot", ModelKind.ADAPTER, manifest, 4, bump="patch")
        acknowledged.add(key, registry.submit(command, idempotency_key=key))


def check(home, acknowledged):
    registry = RegistryService(Location(home))
    found = {change.idempotency_key: commit.sequence for commit in registry.commits() for change in commit.changes}
    assert found == acknowledged.sequences
    number = sum(len(commit.changes) for commit in registry.commits())
    assert number == len(found)
    assert set(registry.state.models["bot"].versions) == {f"1.0.{patch}" for patch in range(number)}
    assert verify(Location(home)).problems == ()


def kill(actor, how):
    import ray

    if how == "ray":
        ray.kill(actor, no_restart=False)
    else:
        pid = ray.get(actor.__ray_call__.remote(lambda _self: os.getpid()))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_an_actor_killed_again_and_again_loses_nothing_and_repeats_nothing(home, manifest, num_kills):
    from llamafarm_ray.registry.remote.actor import registry_actor
    from llamafarm_ray.registry.remote.client import RegistryClient

    acknowledged, end = Acknowledged(), threading.Event()
    actor = registry_actor(home)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [RegistryClient(home) for _ in range(CLIENTS)]
        writers = [
            pool.submit(keep_writing, client, manifest, f"client-{index}", acknowledged, end)
            for index, client in enumerate(clients)
        ]
        try:
            for number in range(num_kills):
                acknowledged.wait_for_more(random.randint(1, 60))
                kill(actor, "ray" if number % 2 else "signal")
            acknowledged.wait_for_more(CLIENTS)
        finally:
            end.set()
        for writer in writers:
            writer.result()
    check(home, acknowledged)
    assert {client.refresh().sequence for client in clients} == {max(acknowledged.sequences.values())}


def test_an_actor_and_another_service_write_one_home_at_once(home, manifest):
    from llamafarm_ray.registry.remote.client import RegistryClient

    acknowledged, end = Acknowledged(), threading.Event()
    client, service = RegistryClient(home), RegistryService(Location(home))
    with ThreadPoolExecutor(4) as pool:
        writers = [
            pool.submit(keep_writing, registry, manifest, f"writer-{index}", acknowledged, end)
            for index, registry in enumerate([client, client, service, service])
        ]
        try:
            acknowledged.wait_for_more(400)
        finally:
            end.set()
        for writer in writers:
            writer.result()
    check(home, acknowledged)
    assert len({key.split("-")[1] for key in acknowledged.sequences}) == 4
    assert client.refresh() == service.refresh()


@pytest.mark.long  # the short tier has fewer changes, of both writers: test_registry_client.py
@pytest.mark.parametrize("writer", ["through the actor", "past the actor"])
def test_a_subscriber_hears_of_a_change_within_a_second(writer, home, manifest):
    from llamafarm_ray.registry.remote.client import RegistryClient
    from llamafarm_ray.registry.remote.view import RegistryView

    client = RegistryClient(home)
    registry = client if writer == "through the actor" else RegistryService(Location(home))
    for _ in range(2):
        registry.submit(Register("bot", ModelKind.ADAPTER, manifest, 4))

    async def delay_s(view, number):
        ref = ModelRef.parse("bot:1.1.0" if number % 2 else "bot:1.0.0")
        began = time.monotonic()
        outcome = await asyncio.to_thread(registry.submit, MoveAlias(ref, "production"))
        while view.state.sequence < outcome.sequence:  # noqa: ASYNC110  (a view has no event)
            await asyncio.sleep(0.001)
        assert view.state.resolve(ModelRef.parse("bot@production")).version == ref.version
        return time.monotonic() - began

    async def scenario():
        view = RegistryView(home)
        await view.start()
        delays = sorted([await delay_s(view, number) for number in range(CHANGES)])
        await view.stop()
        return delays

    delays = asyncio.run(scenario())
    assert delays[CHANGES * 9 // 10] < patience(1), delays


def test_more_than_a_thousand_watchers_leave_room_for_commands_and_all_hear_of_them(home, manifest):
    import ray

    from llamafarm_ray.registry.remote.client import RegistryClient
    from llamafarm_ray.registry.updates import Update

    client = RegistryClient(home)
    known = client.refresh()
    watch = client._actor.changes_after
    waiting = [watch.remote(known.sequence, known.last_key, 60.0) for _ in range(1100)]
    outcome = client.submit(Register("bot", ModelKind.ADAPTER, manifest, 4))
    for sent in ray.get(waiting):
        commits = Update.of_bytes(sent).commits
        assert [commit.sequence for commit in commits] == [outcome.sequence], "it waited for its own time"


def test_an_actor_that_a_replica_made_outlives_the_replicas_placement_group(home, manifest):
    import ray
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from llamafarm_ray.registry.remote.actor import registry_actor

    group = placement_group([{"CPU": 1}])
    within = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_capture_child_tasks=True)

    @ray.remote(num_cpus=1, scheduling_strategy=within)
    def make(home):
        actor = registry_actor(home)
        ray.get(actor.changes_after.remote(0, "", 0.0))
        return actor._actor_id.hex()

    made = ray.get(make.remote(home), timeout=60)
    remove_placement_group(group)
    until = time.monotonic() + 3  # Ray ends what was in it within that
    while time.monotonic() < until:
        ray.get(registry_actor(home).changes_after.remote(0, "", 0.1), timeout=60)
    assert registry_actor(home)._actor_id.hex() == made
