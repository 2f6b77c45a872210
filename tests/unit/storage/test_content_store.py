"""What is stored comes back byte for byte, or not at all."""

import json
import os
import struct
import threading

import pytest

from llamafarm_ray.errors import InputError, IntegrityError, StorageError
from llamafarm_ray.storage import ContentStore, Location, Manifest
from llamafarm_ray.types import Digest


def safetensors(value: float = 1.0) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<2f", value, value)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "adapter"
    (made / "sub").mkdir(parents=True)
    (made / "adapter_model.safetensors").write_bytes(safetensors())
    (made / "adapter_config.json").write_text("{}")
    (made / "sub" / "vocab.txt").write_text("a\nb\n")
    return made


@pytest.fixture
def store(tmp_path):
    return ContentStore(Location(tmp_path / "home"))


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_published_folder_is_pulled_byte_for_byte(store, folder):
    manifest = store.publish(folder)
    assert files(store.pull(manifest.digest)) == files(folder)


def test_the_same_files_have_the_same_digest_and_are_stored_once(store, folder, tmp_path):
    first = store.publish(folder)
    stored = files(tmp_path / "home")
    assert store.publish(folder).digest == first.digest
    assert files(tmp_path / "home") == stored


def test_the_cache_is_filled_once_for_many_pullers(store, folder):
    digest = store.publish(folder).digest
    paths, errors = [], []

    def pull():
        try:
            paths.append(store.pull(digest))
        except Exception as error:  # noqa: BLE001  (shown by the assertion)
            errors.append(error)

    threads = [threading.Thread(target=pull) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors
    assert len(set(paths)) == 1
    assert [entry.name for entry in paths[0].parent.iterdir()] == [digest.hex]


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_damaged_blob_is_named_and_nothing_lands_in_the_cache(store, folder, tmp_path, damage):
    manifest = store.publish(folder)
    entry = next(e for e in manifest.files if e.path.endswith(".safetensors"))
    blob = tmp_path / "home" / "blobs" / "sha256" / entry.digest.hex[:2] / entry.digest.hex
    if damage == "flip":
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.write_bytes(data)
    else:
        blob.unlink()
    with pytest.raises(IntegrityError, match=entry.digest):
        store.pull(manifest.digest)
    assert files(store.cache) == {}


def test_a_changed_manifest_is_refused(store, folder, tmp_path):
    digest = store.publish(folder).digest
    path = tmp_path / "home" / "manifests" / "sha256" / f"{digest.hex}.json"
    path.write_bytes(path.read_bytes().replace(b"adapter_config", b"adapter_c0nfig"))
    with pytest.raises(IntegrityError, match="changed"):
        store.pull(digest)


def test_an_unknown_digest_is_an_integrity_error(store):
    with pytest.raises(IntegrityError, match="missing"):
        store.pull(Digest.of(b"nothing"))


@pytest.mark.parametrize(
    "name", ["model.bin", "model.pt", "weights.pkl", "sub/x.ckpt", "evil.BIN", "model.pth.tar", "x.joblib"]
)
def test_pickled_weights_are_refused(folder, name):
    (folder / name).write_bytes(b"x")
    with pytest.raises(InputError, match="pickled"):
        Manifest.of_folder(folder)


@pytest.mark.parametrize(
    "data",
    [b"", b"short", struct.pack("<Q", 2**60) + b"{}", safetensors()[:-1], safetensors() + b"x", b"\0" * 40],
    ids=["empty", "short", "huge header", "cut off", "trailing bytes", "zeros"],
)
def test_a_broken_safetensors_file_is_refused(folder, data):
    (folder / "adapter_model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        Manifest.of_folder(folder)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("no")
    (folder / "vocab.txt").symlink_to(secret)
    with pytest.raises(InputError, match="link"):
        Manifest.of_folder(folder)


def test_hidden_files_and_a_runs_record_are_left_out(folder):
    before = Manifest.of_folder(folder).digest
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    (folder / "training.json").write_text("{}")
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events").write_text("x")
    assert Manifest.of_folder(folder).digest == before


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", ""])
def test_a_manifest_that_leaves_its_folder_is_refused(folder, path):
    body = json.loads(Manifest.of_folder(folder).to_bytes())
    body["files"][0]["path"] = path
    with pytest.raises(IntegrityError, match="outside"):
        Manifest.from_bytes(json.dumps(body).encode())


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "a//x", ""])
def test_a_location_stays_inside_itself(tmp_path, name):
    with pytest.raises(InputError):
        Location(tmp_path).create(name, b"x")


def test_of_eight_racing_writers_exactly_one_creates(tmp_path):
    location = Location(tmp_path)
    won = []

    def write(number):
        try:
            location.create("log/1", str(number).encode() * 1000)
            won.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(won) == 1
    assert location.read("log/1") == str(won[0]).encode() * 1000
    assert location.names("log") == ["1"]


def test_a_location_works_the_same_on_another_file_system():
    location = Location("memory://bucket/home")
    location.create("a/b", b"1")
    with pytest.raises(FileExistsError):
        location.create("a/b", b"2")
    assert location.read("a/b") == b"1"
    assert location.names("a") == ["b"]
    assert location.names("none") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="written"):
        Location(tmp_path).create("x", b"x")


def test_a_relative_location_is_the_same_folder_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    location = Location("home")
    assert location.uri == str(tmp_path / "home")


def test_a_bucket_is_understood():
    assert Location("s3://bucket/home").uri == "s3://bucket/home"


def test_an_unknown_protocol_is_the_users_mistake():
    with pytest.raises(InputError, match="nosuch"):
        Location("nosuch://x/y")
