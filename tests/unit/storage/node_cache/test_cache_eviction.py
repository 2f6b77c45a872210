"""The least valuable goes first, and nothing goes that is in use."""

import os
import shutil
import threading

import pytest
from process_tools import child, pipe
from stored_files import cached_blob, files

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.storage import ContentStore, Location, Manifest
from llamafarm_ray.storage.node_cache.cache import Cache
from llamafarm_ray.storage.node_cache.eviction import fetch_cost_s, value


def last_used(store, digest, seconds):
    os.utime(store.cache / "locks" / f"{digest.hex}.lock", (seconds, seconds))


def hold_in_process(uri, cache, digest, pipe):
    store = ContentStore(Location(uri), cache)
    store.pull(digest)
    pipe.send("pulled")
    pipe.recv()


def test_the_least_recently_used_go_first_and_pins_stay(store, publish):
    manifests = [publish(a=f"{number}" * 1000) for number in range(4)]
    for number, manifest in enumerate(manifests):
        store.pull(manifest.digest)
        store.release(manifest.digest)
        last_used(store, manifest.digest, 1000 + number)
    store.pull(manifests[0].digest)  # used again: now the last to go
    store.release(manifests[0].digest)
    store.pin(manifests[1].digest)
    assert store.pinned() == {manifests[1].digest}
    assert [version.pinned for version in store.cached()] == [True, False, False, False]

    assert store.evict(4000) == []
    assert store.evict(2500) == [manifests[2].digest, manifests[3].digest]
    assert store.evict(0) == [manifests[0].digest]
    store.unpin(manifests[1].digest)
    store.unpin(manifests[1].digest)
    assert store.evict(0) == [manifests[1].digest]
    assert files(store.cache / "blobs") == {}
    assert list((store.cache / "versions").iterdir()) == []


def test_of_versions_unused_as_long_those_go_first_that_are_large_and_near():
    hub, here = fetch_cost_s("hub", 10**9), fetch_cost_s("local", 10**9)
    assert value(hub, 10**9, 60) > value(here, 10**9, 60), "it takes longer to get again"
    assert value(fetch_cost_s("hub", 1000), 1000, 60) > value(hub, 10**9, 60), "it hardly takes room"
    assert value(hub, 10**9, 60) > value(hub, 10**9, 3600), "it was used last"
    assert value(hub, 0, 0) > 0


def test_what_is_far_away_stays_longer_than_what_was_used_a_little_later(tmp_path):
    cache = Cache(tmp_path / "cache", lambda: {far: "hub", near: "local"})
    far, near = (made(cache, tmp_path / name, name) for name in ("far", "near"))
    for digest, seconds in ((far, 1000), (near, 2000)):
        os.utime(cache.folder / "locks" / f"{digest.hex}.lock", (seconds, seconds))
    assert [version.digest for version in cache.cached()] == [far, near]
    assert cache.evict(1000) == [near]


def made(cache, folder, text):
    """A version of a thousand bytes in a cache, used by nobody."""
    folder.mkdir()
    (folder / "a.txt").write_text((text * 1000)[:1000])
    manifest = Manifest.of_folder(folder)
    cache.adopt(folder, manifest)
    shutil.rmtree(folder)  # whose files became the cache's
    cache.release(manifest.digest)
    return manifest.digest


def test_a_shared_blob_goes_with_its_last_version(store, publish):
    one, two = publish(a="same" * 999, b="1"), publish(a="same" * 999, b="2")
    for number, manifest in enumerate((one, two)):
        store.pull(manifest.digest)
        store.release(manifest.digest)
        last_used(store, manifest.digest, 1000 + number)
    assert store.evict(3997) == [one.digest]
    assert cached_blob(store, two).exists()
    assert files(store.pull(two.digest)).keys() == {"a.txt", "b.txt"}


def test_what_another_process_uses_is_not_evicted(store, location, publish):
    manifest = publish(a="x" * 1000)
    here, there = pipe()
    holder = child(hold_in_process, location.uri, store.cache, manifest.digest, there)
    holder.start()
    assert here.recv() == "pulled"
    assert [version.in_use for version in store.cached()] == [True]
    assert store.evict(0) == []
    here.send("go")
    holder.join()
    assert [version.in_use for version in store.cached()] == [False]
    assert store.evict(0) == [manifest.digest]
    assert files(store.pull(manifest.digest)) == {"a.txt": b"x" * 1000}


def test_what_this_process_uses_is_not_evicted_until_it_is_released(store, publish):
    manifest = publish(a="x")
    store.pull(manifest.digest)
    assert store.evict(0) == []
    store.release(manifest.digest)
    assert store.evict(0) == [manifest.digest]


def test_what_two_users_of_one_process_pulled_stays_until_both_released_it(store, publish):
    manifest = publish(a="x")
    store.pull(manifest.digest)
    store.pull(manifest.digest)
    store.release(manifest.digest)
    assert store.evict(0) == []
    assert [version.in_use for version in store.cached()] == [True]
    store.release(manifest.digest)
    assert store.evict(0) == [manifest.digest]
    store.release(manifest.digest)  # once too often: nothing


def test_a_pull_that_failed_or_an_export_uses_nothing_afterwards(store, location, publish, tmp_path):
    manifest = publish(a="x")
    store.export(manifest.digest, tmp_path / "out")
    assert [version.in_use for version in store.cached()] == [False]
    assert store.evict(0) == [manifest.digest]
    name = f"blobs/sha256/{manifest.files[0].digest.hex[:2]}/{manifest.files[0].digest.hex}"
    location.write(name, b"y")
    with pytest.raises(IntegrityError):
        store.pull(manifest.digest)
    location.write(name, b"x")
    store.pull(manifest.digest)
    store.release(manifest.digest)
    assert store.evict(0) == [manifest.digest]


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_limit_evicts_after_a_pull(store, location, publish, monkeypatch, by):
    one, two = publish(a="1" * 1000), publish(a="2" * 1000)
    if by == "environment":
        monkeypatch.setenv("LLAMAFARM_CACHE_MAX", "1.5KB")
    limited = ContentStore(location, store.cache, max_cache_bytes=1500 if by == "argument" else None)
    limited.pull(one.digest)
    limited.release(one.digest)
    limited.pull(two.digest)
    assert [version.digest for version in limited.cached()] == [two.digest]


def test_eviction_clears_what_killed_downloads_left_and_touches_nothing_else(store, publish):
    manifest = publish(a="x")
    store.pull(manifest.digest)
    store.release(manifest.digest)
    hub = store.cache / "hub" / "model"
    unfinished = store.cache / "versions" / f".{'a' * 64}"
    stale, fresh = (store.cache / "partial" / (digit * 64) for digit in "bc")
    for path in (hub / "x", unfinished / "x", stale, fresh):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("12345")
    os.utime(stale, (1000, 1000))
    store.evict(0)
    assert (hub / "x").exists()
    assert fresh.exists()
    assert not unfinished.exists()
    assert not stale.exists()


def test_several_may_evict_at_once(local_store, tmp_path):
    digests = []
    for number in range(10):
        made = tmp_path / f"version-{number}"
        made.mkdir()
        (made / "a.txt").write_text(str(number) * 1000)
        digests.append(local_store.publish(made).digest)
        local_store.pull(digests[-1])
        local_store.release(digests[-1])
    evicted, gate = [], threading.Barrier(4)

    def evict():
        gate.wait()
        evicted.append(local_store.evict(0))

    threads = [threading.Thread(target=evict) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(evicted) == 4
    local_store.evict(0)  # what two of them kept from each other
    assert local_store.cached() == []
    assert files(local_store.cache / "blobs") == {}
    assert {digest for some in evicted for digest in some} <= set(digests)
