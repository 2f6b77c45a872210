"""Large files of safetensors are stored in chunks, so that what two of them have in common is stored once."""

import itertools
import json
import random
import struct

import pytest
from stored_files import files

from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.storage import ContentStore, Location, blobs, chunks
from llamafarm_ray.storage.chunks import Chunk, ChunkList, boundaries
from llamafarm_ray.types import Digest

LARGE, SMALL = 1024, 16
"""Bytes of a matrix and of a norm."""


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(blobs, "SMALLEST_FILE_BYTES", 8000)
    monkeypatch.setattr(chunks, "_SMALLEST_CHUNK_BYTES", 512)


def weights(seed=0, *, num_layers=20, changed=(), note=""):
    """A file with a matrix and a norm a layer, whose tensors named in ``changed`` are others."""
    header, data = {"__metadata__": {"note": note}}, b""
    for layer, (kind, size) in itertools.product(range(num_layers), (("mlp", LARGE), ("norm", SMALL))):
        name = f"layers.{layer}.{kind}"
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [len(data), len(data) + size]}
        data += random.Random(f"{name} {seed} {name in changed}").randbytes(size)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def model(tmp_path):
    """Make a model's folder: ``model("first", changed={...})``."""

    def make(name, **options):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(weights(**options))
        (folder / "config.json").write_text(json.dumps({"name": name}))
        return folder

    return make


def stored_bytes(store):
    return sum(blob.size_bytes for blob in store.stored() if not blob.is_manifest)


def weights_of(manifest):
    return next(entry for entry in manifest.files if entry.path == "model.safetensors")


def chunk_files(store, manifest):
    """The names of the chunks of a version's weights in the home."""
    return [store.blobs.name(chunk.digest) for chunk in store.blobs.chunks(weights_of(manifest).digest).chunks]


def test_a_file_in_chunks_is_pulled_exported_and_read_byte_for_byte(store, model, tmp_path):
    folder = model("first")
    manifest = store.publish(folder)
    digest = weights_of(manifest).digest
    data = (folder / "model.safetensors").read_bytes()
    assert len(chunk_files(store, manifest)) > 20
    assert files(store.pull(manifest.digest)) == files(folder)
    store.export(manifest.digest, tmp_path / "exported")
    assert files(tmp_path / "exported") == files(folder)
    assert store.size(digest) == len(data)
    assert store.read_blob(digest) == data
    assert store.read_range(digest, 1000, 5000) == data[1000:5000]
    assert store.read_range(digest, 0, 10**6) == data
    assert store.check(digest, len(data)) is None


def test_a_fine_tune_adds_the_tensors_that_it_changed(store, model):
    first = store.publish(model("first"))
    before = stored_bytes(store)
    changed = {"layers.3.mlp", "layers.4.norm", "layers.11.mlp", "layers.11.norm"}
    second = store.publish(model("second", changed=changed))
    added = stored_bytes(store) - before
    assert 2 * LARGE + 2 * SMALL < added < 2 * LARGE + 2 * SMALL + 5000  # and the list of chunks
    assert len({*chunk_files(store, second)} - {*chunk_files(store, first)}) == 4
    for manifest in (first, second):
        store.pull(manifest.digest)
        assert store.check(weights_of(manifest).digest) is None


def test_the_same_folder_again_writes_nothing(store, model, monkeypatch):
    folder = model("first")
    store.publish(folder)
    monkeypatch.setattr(Location, "upload", None)
    monkeypatch.setattr(Location, "write", None)
    store.publish(folder)


def test_small_files_and_adapters_are_stored_whole(store, model):
    store.publish(model("small", num_layers=2))
    store.publish(model("adapter", num_layers=10), is_adapter=True)
    assert not any(blob.is_chunk_list for blob in store.stored())


def test_a_file_that_is_stored_whole_stays_so(store, model, tmp_path):
    folder = model("first")
    manifest = store.publish(folder, is_adapter=True)  # as every release before chunks did
    store.publish(folder)
    assert not any(blob.is_chunk_list for blob in store.stored())
    assert files(store.pull(manifest.digest)) == files(folder)


def test_a_pull_goes_on_within_a_chunk(store, model):
    folder = model("first")
    manifest = store.publish(folder)
    entry, data = weights_of(manifest), (folder / "model.safetensors").read_bytes()
    partial = store.cache / "partial" / entry.digest.hex
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data[:4321])
    assert b"".join(store.blobs.stream(entry.digest, 4321)) == data[4321:]
    assert files(store.pull(manifest.digest)) == files(folder)


@pytest.mark.parametrize("damage", ["flip", "delete", "list"])
def test_a_damaged_chunk_is_named_and_published_again(local_store, model, damage):
    store, folder = local_store, model("first")
    manifest = store.publish(folder)
    entry, home = weights_of(manifest), store._home
    name = chunk_files(store, manifest)[7]
    if damage == "list":
        (name,) = [file.name for file in home.walk("blobs") if file.name.endswith(".chunks")]
        home.write(name, home.read(name).replace(b"1", b"2"))
    elif damage == "delete":
        home.remove(name)
    else:
        home.write(name, b"x" * home.size(name))
    said = store.check(entry.digest, entry.size_bytes)
    assert (name.rsplit("/", 1)[1] if damage != "list" else "list of chunks") in said
    with pytest.raises(IntegrityError, match=entry.digest):
        store.pull(manifest.digest)
    store.publish(folder)
    assert store.check(entry.digest, entry.size_bytes) is None
    assert files(store.pull(manifest.digest)) == files(folder)


def test_a_blob_with_a_missing_chunk_counts_as_not_stored(store, location, model):
    manifest = store.publish(model("first"))
    location.remove(chunk_files(store, manifest)[3])
    assert store.size(weights_of(manifest).digest) is None


def test_a_file_that_changes_while_it_is_split_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(weights())
    with pytest.raises(InputError, match="changed while it was read"):
        chunks.split(path, Digest.of(weights(1)))


def test_chunks_cover_a_file_and_large_tensors_have_their_own(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(weights())
    found = boundaries(path)
    assert found[0] == 0
    assert found[-1] == path.stat().st_size
    assert found == sorted({*found})
    sizes = [end - begin for begin, end in itertools.pairwise(found)]
    assert sizes.count(LARGE) == 20
    assert sizes.count(SMALL) == 20


def test_a_header_of_many_tiny_tensors_makes_few_chunks(tmp_path):
    path = tmp_path / "model.safetensors"
    names = [f"t{number}" for number in range(2000)]
    header = {n: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i, n in enumerate(names)}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(2000))
    assert len(boundaries(path)) <= 6


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:1],
        lambda data: data[:0] + b"[]",
        lambda data: data.replace(b'"format_version":1', b'"format_version":2'),
        lambda data: data.replace(b",3]", b",4]"),
        lambda data: data.replace(b",3]", b",-3]"),
        lambda data: data.replace(b"sha256:", b"sha512:", 1),
        lambda data: data + b" ",
    ],
)
def test_a_list_of_chunks_that_was_changed_is_refused(change):
    digest = Digest.of(b"abc")
    data = ChunkList(digest, (Chunk(digest, 3),)).to_bytes()
    assert ChunkList.from_bytes(data, digest).size_bytes == 3
    with pytest.raises(IntegrityError, match="damaged"):
        ChunkList.from_bytes(change(data), digest)
    with pytest.raises(IntegrityError, match="damaged"):
        ChunkList.from_bytes(data, Digest.of(b"another blob"))


def test_names_follow_the_generation_of_each_chunk(location, model, tmp_path):
    generations = {}
    store = ContentStore(location, tmp_path / "cache", generation=lambda digest: generations.get(digest, 0))
    folder = model("first")
    manifest = store.publish(folder)
    first = chunk_files(store, manifest)
    chunk = store.blobs.chunks(weights_of(manifest).digest).chunks[5]
    generations[chunk.digest] = 1
    assert store.size(weights_of(manifest).digest) is None
    store.publish(folder)
    assert [name for name in chunk_files(store, manifest) if name not in first] == [f"{first[5]}.1"]
    assert files(store.pull(manifest.digest)) == files(folder)
