"""Versions that nobody used for a while are compressed, and come back byte for byte when they are used."""

import os

import pytest
from stored_files import files

from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.storage import ContentStore, Location
from llamafarm_ray.storage.node_cache import cold_versions

DAY_S = 24 * 3600.0


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(cold_versions, "_SMALLEST_BYTES", 1000)


@pytest.fixture
def cache(local_store):
    return local_store.node_cache


@pytest.fixture
def unused(local_store, tmp_path):
    """Put a version into the cache that was last used two days ago: ``unused("first", a=b"...")``."""

    def make(name, days=2, **contents):
        folder = tmp_path / name
        folder.mkdir()
        for file, data in {"config": name.encode(), **contents}.items():
            (folder / f"{file}.txt").write_bytes(data)
        manifest = local_store.publish(folder)
        local_store.pull(manifest.digest)
        local_store.release(manifest.digest)
        lock = local_store.cache / "locks" / f"{manifest.digest.hex}.lock"
        os.utime(lock, (lock.stat().st_mtime - days * DAY_S,) * 2)
        return manifest

    return make


def blobs(cache):
    return files(cache.folder / "blobs")


def damage(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-20])


def test_an_unused_version_is_compressed_and_comes_back_without_the_home(local_store, cache, unused, monkeypatch):
    manifest = unused("first", a=b"x" * 5000)
    before = sum(map(len, blobs(cache).values()))
    ((digest, freed),) = cache.compress(DAY_S)
    assert digest == manifest.digest
    assert freed == before - sum(map(len, blobs(cache).values())) > 4000
    (row,) = cache.cached()
    assert (row.is_compressed, row.size_bytes) == (True, manifest.size_bytes)
    assert cache.is_sound(digest)
    assert not list((cache.folder / "versions").iterdir())
    monkeypatch.setattr(Location, "read", None)
    folder = local_store.pull(digest)
    assert files(folder) == {"config.txt": b"first", "a.txt": b"x" * 5000}
    assert [row.is_compressed for row in cache.cached()] == [False]
    assert sum(map(len, blobs(cache).values())) == before
    assert not list((cache.folder / "cold").iterdir())


def test_what_is_said_before_is_about_what_is_freed(cache, unused):
    manifest = unused("first", a=os.urandom(3000) + bytes(3000))
    ((digest, planned),) = cache.compressible(DAY_S)
    assert digest == manifest.digest
    assert not cache.cached()[0].is_compressed
    ((_, freed),) = cache.compress(DAY_S)
    assert planned == pytest.approx(freed, rel=0.1)


def test_what_was_used_lately_is_pinned_or_is_in_use_stays_as_it_is(local_store, cache, unused):
    unused("lately", days=0, a=b"x" * 5000)
    local_store.pin(unused("pinned", a=b"y" * 5000).digest)
    local_store.pull(unused("used", a=b"z" * 5000).digest)
    assert cache.compress(DAY_S) == cache.compressible(DAY_S) == []
    assert cache.compress(0.0) != []  # the first one, now


def test_what_is_taken_into_use_meanwhile_stays_as_it_is(local_store, cache, unused, monkeypatch):
    manifest = unused("first", a=b"x" * 5000)
    real = cold_versions.ColdVersions._swap

    def swap(self, digest):
        local_store.pull(digest)
        return real(self, digest)

    monkeypatch.setattr(cold_versions.ColdVersions, "_swap", swap)
    assert cache.compress(DAY_S) == []
    assert (cache.folder / "versions" / manifest.digest.hex / "a.txt").read_bytes() == b"x" * 5000
    assert not any(name.endswith(".zst") for name in blobs(cache))
    assert not list((cache.folder / "cold").iterdir())


def test_what_compression_does_not_shrink_stays_as_it_is(cache, unused):
    unused("random", a=os.urandom(5000))
    assert cache.compressible(DAY_S) == cache.compress(DAY_S) == []
    assert not any(name.endswith(".zst") for name in blobs(cache))


def test_a_file_that_a_version_in_use_shares_stays_as_it_is(local_store, cache, unused):
    shared, own = b"s" * 5000, b"o" * 5000
    cold = unused("cold", a=shared, b=own)
    warm = unused("warm", days=0, a=shared)
    ((digest, freed),) = cache.compress(DAY_S)
    assert digest == cold.digest
    assert 4000 < freed < 5000
    assert cache.is_sound(warm.digest)
    assert cache.is_sound(cold.digest)
    assert files(local_store.pull(cold.digest)) == {"config.txt": b"cold", "a.txt": shared, "b.txt": own}


def test_a_file_that_two_cold_versions_share_is_compressed_once(local_store, cache, unused):
    shared = b"s" * 5000
    both = [unused(name, a=shared) for name in ("one", "two")]
    assert {digest for digest, _ in cache.compress(DAY_S)} == {manifest.digest for manifest in both}
    assert len([name for name in blobs(cache) if name.endswith(".zst")]) == 1
    assert shared not in blobs(cache).values()
    local_store.pull(both[0].digest)
    local_store.release(both[0].digest)
    assert cache.is_sound(both[1].digest), "the other one is still there"
    assert files(local_store.pull(both[1].digest))["a.txt"] == shared


def test_a_damaged_compressed_file_is_found_and_downloaded_again(local_store, cache, unused):
    manifest = unused("first", a=b"x" * 5000, b=b"y" * 5000)
    cache.compress(DAY_S)
    damage(next(path for path in (cache.folder / "blobs").iterdir() if path.suffix == ".zst"))
    assert not cache.is_sound(manifest.digest)
    assert files(local_store.pull(manifest.digest)) == {
        "config.txt": b"first",
        "a.txt": b"x" * 5000,
        "b.txt": b"y" * 5000,
    }
    assert cache.is_sound(manifest.digest)


def test_a_damaged_download_without_a_home_is_not_here_any_more(cache, unused):
    manifest = unused("first", a=b"x" * 5000)
    cache.compress(DAY_S)
    assert files(cache.use(manifest.digest))["a.txt"] == b"x" * 5000
    cache.release(manifest.digest)
    cache.compress(0.0)
    damage(next(path for path in (cache.folder / "blobs").iterdir() if path.suffix == ".zst"))
    assert cache.use(manifest.digest) is None
    assert not cache.has(manifest.digest)


def test_a_damaged_plain_file_is_not_compressed(cache, unused):
    manifest = unused("first", a=b"x" * 5000)
    path = cache.folder / "versions" / manifest.digest.hex / "a.txt"
    path.chmod(0o644)
    path.write_bytes(b"y" * 5000)
    assert cache.compress(DAY_S) == []
    assert path.exists()


def test_a_compressed_version_is_evicted_by_what_it_takes(cache, unused):
    manifest = unused("first", a=b"x" * 5000)
    cache.compress(DAY_S)
    size_bytes = sum(map(len, blobs(cache).values()))
    assert cache.evictable(0).freed == ((manifest.digest, size_bytes),)
    assert cache.evict(0) == [manifest.digest]
    assert blobs(cache) == {}
    assert cache.cached() == []


def test_files_are_read_from_the_front_while_they_are_compressed(cache, unused):
    manifest = unused("first", a=b"abc" + b"x" * 5000)
    cache.compress(DAY_S)
    by_path = {entry.path: entry for entry in manifest.files}
    for path, begin in (("a.txt", b"abcx"), ("config.txt", b"firs")):
        with cache.open(manifest.digest, by_path[path]) as file:
            assert file.read(4) == begin
    assert cache.cached()[0].is_compressed


def test_what_a_killed_compressor_left_goes_with_the_next_eviction(cache, unused):
    manifest = unused("first", a=b"x" * 5000)
    left = cache.folder / "cold" / f".{manifest.digest.hex}"
    left.mkdir(parents=True)
    packed = cache.folder / "blobs" / f"{manifest.files[0].digest.hex}.zst"
    packed.write_bytes(b"half")
    os.link(packed, left / packed.name)
    cache.evict(10**9)
    assert not left.exists()
    assert not packed.exists()
    assert cache.is_sound(manifest.digest)


def test_the_home_is_asked_only_for_what_is_damaged(local_store, cache, unused):
    manifest = unused("first", a=b"x" * 5000)
    cache.compress(DAY_S)
    for entry in manifest.files:
        local_store._home.write(local_store.blobs.name(entry.digest), b"changed")
    assert files(local_store.pull(manifest.digest))["a.txt"] == b"x" * 5000
    local_store.release(manifest.digest)
    cache.compress(0.0)
    damage(next(path for path in (cache.folder / "blobs").iterdir() if path.suffix == ".zst"))
    with pytest.raises(IntegrityError, match="changed"):
        local_store.pull(manifest.digest)


def test_a_bad_time_is_the_users_mistake(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMAFARM_CACHE_COMPRESS_AFTER", "soon")
    with pytest.raises(InputError, match="LLAMAFARM_CACHE_COMPRESS_AFTER"):
        ContentStore(Location(tmp_path))
