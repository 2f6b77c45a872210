"""Many processes on one home: nothing lost, nothing twice, and garbage collection removes garbage only."""

import datetime as dt

import pytest
from process_tools import pool
from registry_crash import busy_bucket, make_folders  # noqa: F401  (a fixture)
from registry_races import collect_until, publish_many, pull_until, register_many
from s3 import bucket, s3_server  # noqa: F401  (fixtures)

from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.gc import collect
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest

WRITERS = 8


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.long)])
def home(request, tmp_path):
    store = tmp_path / "store" if request.param == "local" else request.getfixturevalue("busy_bucket")
    return f"{store}/home"


@pytest.fixture(params=[1, pytest.param(3, marks=pytest.mark.long)])
def times(request):
    return request.param


@pytest.fixture
def folders(tmp_path):
    return make_folders(tmp_path / "folders")


def run_writers(home, manifest, names, number):
    with pool(len(names)) as processes:
        writers = [processes.submit(register_many, home, manifest, name, number) for name in names]
        return [writer.result() for writer in writers]


def changes(registry):
    return [(commit.sequence, change) for commit in registry.commits() for change in commit.changes]


def test_eight_writers_lose_no_commit_and_give_no_number_twice(home, folders, times):
    number = 42 * times if Location(home).is_local else 5 * times
    registry = RegistryService(Location(home))
    manifest = registry.content.publish(folders / "one").digest
    found = run_writers(home, manifest, [f"writer-{index}" for index in range(WRITERS)], number)
    acknowledged = {key: what for one in found for key, what in one.items()}
    assert len(acknowledged) == WRITERS * number
    in_log = {
        change.idempotency_key: (sequence, f"{event.model}:{event.version}")
        for sequence, change in changes(registry)
        for event in change.events
    }
    assert in_log == acknowledged
    assert len({reference for _, reference in acknowledged.values()}) == WRITERS * number
    assert registry.refresh().sequence == WRITERS * number
    for model in registry.state.models.values():
        assert set(model.versions) == {f"1.0.{patch}" for patch in range(len(model.versions))}
    assert verify(Location(home)).problems == ()


def test_two_writers_with_the_same_keys_do_it_once(home, folders, times):
    number = 34 * times if Location(home).is_local else 4 * times
    registry = RegistryService(Location(home))
    manifest = registry.content.publish(folders / "one").digest
    first, second = run_writers(home, manifest, ["twin", "twin"], number)
    assert first == second
    assert sorted(change.idempotency_key for _, change in changes(registry)) == sorted(first)
    assert verify(Location(home)).problems == ()


def test_garbage_collection_takes_nothing_from_publishers_and_pullers(home, folders, tmp_path, times):
    rounds = 13 * times if Location(home).is_local else 2 * times
    stop = tmp_path / "stop"
    with pool(6) as processes:
        try:
            others = [processes.submit(collect_until, home, str(stop)) for _ in range(2)]
            others += [processes.submit(pull_until, home, str(stop)) for _ in range(2)]
            names = ("ann", "bob")
            publishers = [processes.submit(publish_many, home, str(folders), name, rounds) for name in names]
            staying = [reference for publisher in publishers for reference in publisher.result()]
        finally:
            stop.touch()
        collected, pulled = [sum(pair) for pair in zip(*[iter([other.result() for other in others])] * 2, strict=True)]
    assert collected > 0
    assert pulled > 0
    registry = RegistryService(Location(home), cache=tmp_path / "cache")
    assert verify(Location(home)).problems == ()
    for reference in staying:
        assert (registry.pull(reference) / "adapter_model.safetensors").is_file()
    collect(registry, grace=dt.timedelta(), purge_retired_after=dt.timedelta(), dry_run=False)
    assert verify(Location(home)).problems == ()
    used = {Digest(registry.resolve(reference).registered.manifest) for reference in staying}
    assert {blob.digest for blob in registry.content.stored() if blob.is_manifest} == used
