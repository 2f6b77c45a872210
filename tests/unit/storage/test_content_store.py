"""What is published is stored once, under its generation, and checked; what is missing or changed is named."""

import datetime as dt
import json
import os

import pytest
from stored_files import files

from llamafarm_ray.errors import InputError, IntegrityError, StorageError
from llamafarm_ray.storage import ContentStore, Location, Manifest
from llamafarm_ray.types import Digest

UNKNOWN = Digest.of(b"nothing")


def stored_names(location):
    return {file.name for file in location.walk("blobs")} | {file.name for file in location.walk("manifests")}


def blob_name(manifest, suffix):
    digest = next(entry.digest for entry in manifest.files if entry.path.endswith(suffix))
    return digest, f"blobs/sha256/{digest.hex[:2]}/{digest.hex}"


def test_a_published_folder_is_pulled_byte_for_byte(store, folder):
    manifest = store.publish(folder)
    assert files(store.pull(manifest.digest)) == files(folder)
    assert store.manifest(manifest.digest) == manifest


def test_the_same_files_have_the_same_digest_and_are_stored_once(store, location, folder, monkeypatch):
    (folder / "again.txt").write_bytes((folder / "sub" / "vocab.txt").read_bytes())
    first = store.publish(folder)
    names = stored_names(location)
    assert len(names) == 4  # three blobs and the manifest
    monkeypatch.setattr(Location, "upload", None)
    monkeypatch.setattr(Location, "write", None)
    assert store.publish(folder).digest == first.digest
    assert stored_names(location) == names


def test_a_stored_blob_or_manifest_of_another_size_is_replaced(store, location, folder):
    manifest = store.publish(folder)
    names = stored_names(location)
    for name in names:
        location.write(name, b"other size")
    store.publish(folder)
    assert files(store.pull(manifest.digest)) == files(folder)


def test_a_manifest_damaged_at_its_size_is_written_again(store, location, folder):
    manifest = store.publish(folder)
    (name,) = [name for name in stored_names(location) if "manifests" in name]
    location.write(name, b"x" * len(manifest.to_bytes()))
    store.publish(folder)
    assert store.manifest(manifest.digest) == manifest


def test_a_blob_damaged_at_its_size_is_written_again_in_a_folder(local_store, folder):
    manifest = local_store.publish(folder)
    home = local_store._home
    for entry in manifest.files:
        home.write(f"blobs/sha256/{entry.digest.hex[:2]}/{entry.digest.hex}", b"x" * entry.size_bytes)
        assert local_store.check(entry.digest, entry.size_bytes).startswith("changed")
    local_store.publish(folder)
    assert [local_store.check(entry.digest, entry.size_bytes) for entry in manifest.files] == [None] * 3


def test_a_folder_that_changes_while_it_is_published_is_not_published(store, location, folder, monkeypatch):
    real = Manifest.of_folder

    def of_folder(path):
        manifest = real(path)
        (folder / "adapter_config.json").write_text("[]")
        return manifest

    monkeypatch.setattr(Manifest, "of_folder", of_folder)
    with pytest.raises(InputError, match=r"adapter_config\.json changed"):
        store.publish(folder)
    assert not any(name.startswith("manifests/") for name in stored_names(location))
    for blob in store.stored():
        assert store.check(blob.digest) is None


def test_names_follow_the_generation(location, folder, tmp_path):
    generations = {}
    store = ContentStore(location, tmp_path / "cache", generation=lambda digest: generations.get(digest, 0))
    manifest = store.publish(folder)
    digest, name = blob_name(manifest, ".txt")
    text = f"manifests/sha256/{manifest.digest.hex}"
    assert {name, f"{text}.json"} <= stored_names(location)

    generations |= {digest: 1, manifest.digest: 12}
    assert store.check(digest) == "missing"
    with pytest.raises(IntegrityError, match="missing"):
        store.manifest(manifest.digest)
    store.publish(folder)
    assert {name, f"{name}.1", f"{text}.json", f"{text}.12.json"} <= stored_names(location)

    old = [one for one in store.stored() if one.generation == 0 and one.digest in {digest, manifest.digest}]
    for one in [*old, *old]:
        store.remove(one)
    assert not {name, f"{text}.json"} & stored_names(location)
    assert files(store.pull(manifest.digest)) == files(folder)


def test_what_is_stored_is_listed_and_strange_files_are_not(store, location, folder):
    manifest = store.publish(folder)
    generation_two = ContentStore(location, store.cache, generation=lambda _: 2)
    generation_two.publish(folder)
    hexes = UNKNOWN.hex
    for name in (
        f"blobs/sha256/00/{hexes}",
        f"blobs/sha256/{hexes[:2]}/{hexes}.0",
        f"blobs/sha256/{hexes[:2]}/{hexes}.x",
        f"blobs/sha256/{hexes}",
        f"blobs/sha256/{hexes[:2]}/.{hexes}.0123456789ab",
        f"manifests/sha256/{hexes}",
        "manifests/sha256/readme.json",
    ):
        location.write(name, b"x")
    found = list(store.stored())
    expected = {(entry.digest, entry.size_bytes, False) for entry in manifest.files}
    expected.add((manifest.digest, len(manifest.to_bytes()), True))
    for generation in (0, 2):
        listed = {(b.digest, b.size_bytes, b.is_manifest) for b in found if b.generation == generation}
        assert listed == expected
    assert len(found) == 2 * len(expected)


def test_leftovers_of_killed_writers_are_listed_after_a_day(tmp_path):
    home = Location(tmp_path)
    store = ContentStore(home)
    old, new = (f"blobs/sha256/ab/.{UNKNOWN.hex}.{end}" for end in ("0123456789ab", "0123456789ac"))
    for name in (old, new, "blobs/sha256/ab/.hidden"):
        home.write(name, b"x")
    long_ago = dt.datetime.now().timestamp() - 90_000  # noqa: DTZ005  (seconds)
    os.utime(tmp_path / old, (long_ago, long_ago))
    os.utime(tmp_path / "blobs/sha256/ab/.hidden", (long_ago, long_ago))
    assert [file.name for file in store.leftovers()] == [old]


def test_a_single_blob_is_stored_and_read(store, location):
    digest = store.publish_bytes(b"data")
    assert digest == Digest.of(b"data")
    assert store.read_blob(digest) == b"data"
    location.write(f"blobs/sha256/{digest.hex[:2]}/{digest.hex}", b"dat_")
    with pytest.raises(IntegrityError, match="changed"):
        store.read_blob(digest)
    with pytest.raises(IntegrityError, match="missing"):
        store.read_blob(UNKNOWN)


def test_a_check_says_what_is_wrong(store, location, folder):
    manifest = store.publish(folder)
    entry = next(entry for entry in manifest.files if entry.path.endswith(".safetensors"))
    digest, name = blob_name(manifest, ".safetensors")
    assert store.check(digest) is None
    assert store.check(digest, entry.size_bytes) is None
    assert store.check(manifest.digest, is_manifest=True) is None
    data = location.read(name)
    location.write(name, data[:-1])
    assert store.check(digest, entry.size_bytes).startswith("truncated")
    location.write(name, data[:-1] + b"x")
    assert store.check(digest, entry.size_bytes).startswith("changed")
    location.remove(name)
    assert store.check(digest) == "missing"


@pytest.mark.parametrize("damage", ["flip", "truncate", "append", "delete"])
def test_a_damaged_blob_is_named_and_no_version_lands_in_the_cache(store, location, folder, damage):
    manifest = store.publish(folder)
    digest, name = blob_name(manifest, ".safetensors")
    data = location.read(name)
    if damage == "delete":
        location.remove(name)
    else:
        location.write(name, {"flip": data[:-1] + b"\1", "truncate": data[:-1], "append": data + b"x"}[damage])
    for _ in range(2):
        with pytest.raises(IntegrityError, match=digest):
            store.pull(manifest.digest)
        assert store.cached() == []
        assert not (store.cache / "versions" / manifest.digest.hex).exists()
    location.write(name, data)
    assert files(store.pull(manifest.digest)) == files(folder)


def test_a_changed_manifest_is_refused(store, location, folder):
    digest = store.publish(folder).digest
    name = f"manifests/sha256/{digest.hex}.json"
    location.write(name, location.read(name).replace(b"adapter_config", b"adapter_c0nfig"))
    with pytest.raises(IntegrityError, match="changed"):
        store.pull(digest)


def test_an_unknown_digest_is_an_integrity_error(store):
    with pytest.raises(IntegrityError, match="missing"):
        store.pull(UNKNOWN)


def test_an_export_is_a_plain_copy(store, folder, tmp_path):
    digest = store.publish(folder).digest
    target = tmp_path / "deep" / "exported"
    store.export(digest, target)
    assert files(target) == files(folder)
    for path in target.rglob("*.*"):
        assert path.stat().st_nlink == 1
        path.write_text("mine")  # writable, and nobody else's
    assert files(store.pull(digest)) == files(folder)
    with pytest.raises(InputError, match="exists already"):
        store.export(digest, target)
    (tmp_path / "empty").mkdir()
    store.export(digest, tmp_path / "empty")
    assert files(tmp_path / "empty") == files(folder)


def test_an_export_that_fails_leaves_nothing(local_store, folder, tmp_path, monkeypatch):
    digest = local_store.publish(folder).digest
    local_store.pull(digest)

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(StorageError, match="No space"):
        local_store.export(digest, tmp_path / "out" / "exported")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_download_holds_a_lease_until_it_is_done(store, location, folder):
    digest = store.publish(folder).digest
    seen = []
    store.pull(digest, still_wanted=lambda: seen.append(store.leased()))
    assert seen == [{digest}]
    assert store.leased() == set()
    assert location.names("leases") == []
    store.pull(digest, still_wanted=lambda: seen.append(1))
    assert len(seen) == 1  # nothing to download, no lease


def test_what_is_no_longer_wanted_is_not_downloaded(store, location, folder):
    digest = store.publish(folder).digest

    def refuse():
        raise KeyError("condemned")

    with pytest.raises(KeyError, match="condemned"):
        store.pull(digest, still_wanted=refuse)
    assert store.cached() == []
    assert location.names("leases") == []


def test_expired_leases_count_no_more_and_are_dropped(store, location):
    now = dt.datetime.now(dt.UTC)
    for digits, expires in (("a", now + dt.timedelta(minutes=1)), ("b", now - dt.timedelta(seconds=1))):
        location.write(f"leases/{digits * 64}.0123456789ab.json", json.dumps({"expires": expires.isoformat()}).encode())
    location.write(f"leases/{'c' * 64}.0123456789ab.json", b"{")
    location.write("leases/readme.txt", b"x")
    assert store.leased() == {Digest("sha256:" + "a" * 64)}
    store.drop_expired_leases()
    assert location.names("leases") == [f"{'a' * 64}.0123456789ab.json", "readme.txt"]


def test_a_long_download_renews_its_lease_every_ten_minutes(local_store, folder, monkeypatch):
    digest = local_store.publish(folder).digest
    clock, expiries = [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)], []
    real_write, real_stream = Location.write, Location.stream

    def write(self, name, data):
        if name.startswith("leases/"):
            expiries.append(dt.datetime.fromisoformat(json.loads(data)["expires"]) - clock[0])
        real_write(self, name, data)

    def stream(self, name, start=0):
        clock[0] += dt.timedelta(minutes=6)
        yield from real_stream(self, name, start)

    monkeypatch.setattr("llamafarm_ray.storage.leases._now", lambda: clock[0])
    monkeypatch.setattr(Location, "write", write)
    monkeypatch.setattr(Location, "stream", stream)
    local_store.pull(digest)
    assert expiries == [dt.timedelta(hours=1)] * 2  # at the start, and after 12 of the 18 minutes


def test_a_home_that_cannot_be_written_is_pulled_from_without_a_lease(store, folder, monkeypatch):
    digest = store.publish(folder).digest

    def refuse(*_):
        raise StorageError("read only")

    monkeypatch.setattr(Location, "write", refuse)
    monkeypatch.setattr(Location, "remove", refuse)
    assert files(store.pull(digest)) == files(folder)


@pytest.mark.parametrize("text", ["lots", "-1", "20 XB", "0"])
def test_a_bad_cache_limit_is_the_users_mistake(tmp_path, monkeypatch, text):
    monkeypatch.setenv("LLAMAFARM_CACHE_MAX", text)
    with pytest.raises(InputError, match="LLAMAFARM_CACHE_MAX"):
        ContentStore(Location(tmp_path))
