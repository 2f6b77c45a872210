"""Garbage collection deletes what nothing refers to, and nothing else, whoever else is at work."""

import datetime as dt
import json
import os
import struct
from pathlib import Path

import pytest
from collector import NOW, deployed_base, late, registry_of, run, stored
from signing_key import make_key

from llamafarm_ray.errors import AccessDeniedError, ConflictError, IntegrityError
from llamafarm_ray.registry import Change, CommitLog, DeploymentRecorded, RegistryService
from llamafarm_ray.registry.commands import RecordDeployment
from llamafarm_ray.registry.events import VersionRetired
from llamafarm_ray.registry.gc import collect
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.storage import Location, blobs, chunks
from llamafarm_ray.types import Digest, ModelKind


@pytest.mark.usefixtures("bot", "orphan")
def test_a_dry_run_says_what_would_go_and_deletes_nothing(registry):
    before = stored(registry)
    found = collect(registry, grace=NOW)
    assert (found.blobs, found.manifests, found.dry_run) == (1, 1, True)
    assert stored(registry) == before


@pytest.mark.usefixtures("orphan")
def test_what_nothing_refers_to_goes_and_the_rest_stays(registry, bot):
    found = run(registry)
    assert (found.blobs, found.manifests) == (1, 1)
    assert verify(registry.home).problems == ()
    assert registry.pull(bot.ref)
    assert run(registry).blobs == 0


@pytest.mark.usefixtures("orphan")
def test_what_is_young_stays_for_the_grace_period(registry):
    assert run(registry, grace=dt.timedelta(hours=1)).blobs == 0
    for path in registry_files(registry):
        os.utime(path, (0, 0))
    assert run(registry, grace=dt.timedelta(hours=1)).blobs == 2


def registry_files(registry):
    return [path for path in Path(registry.home.root).rglob("*") if path.is_file()]


def test_what_was_condemned_can_be_published_again(registry, folder, orphan):
    run(registry)
    (folder / "orphan.txt").write_text("nobody's")
    again = registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    assert again.registered.manifest == orphan.digest
    assert {generation for _, generation in stored(registry)} == {1}
    assert verify(registry.home).problems == ()
    assert RegistryService(registry.home, cache=folder.parent / "new").pull("bot:1.0.0")


@pytest.mark.usefixtures("bot")
def test_a_deployed_base_without_a_version_stays(registry, orphan):
    registry.submit(deployed_base(orphan.digest))
    assert run(registry).blobs == 0
    assert orphan.digest in {digest for digest, _ in stored(registry)}


def test_a_retired_version_s_content_goes_when_asked_and_what_is_known_stays(registry, folder, bot):
    (folder / "second.txt").write_text("2")
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.retire("bot:1.1.0", "bad")
    assert run(registry).blobs == 0
    assert run(registry, purge_retired_after=dt.timedelta(days=1)).purged == ()
    assert collect(registry, grace=NOW, purge_retired_after=NOW).purged == ("bot:1.1.0",)
    assert registry.resolve("bot:1.1.0").status == "retired"
    found = run(registry, purge_retired_after=NOW)
    assert (found.purged, found.blobs, found.manifests) == (("bot:1.1.0",), 1, 1)
    assert registry.resolve("bot:1.1.0").status == "purged"
    assert registry.resolve("bot:1.1.0").registered.metrics == {}
    assert registry.pull(bot.ref)
    assert verify(registry.home).problems == ()


@pytest.mark.usefixtures("orphan")
def test_without_a_readable_manifest_nothing_is_deleted(registry, bot):
    manifest = Path(registry.home.root, "manifests", "sha256", f"{bot.registered.manifest[7:]}.json")
    manifest.write_bytes(b"{}")
    before = stored(registry)
    with pytest.raises(IntegrityError, match="manifest"):
        run(registry)
    assert stored(registry) == before


def test_only_an_admin_may_collect(registry):
    root = RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))
    dan = RegistryService(registry.home, token=root.add_principal("dan", {"*": Role.DEPLOYER}))
    with pytest.raises(AccessDeniedError, match="collect garbage"):
        collect(dan)


@pytest.mark.usefixtures("bot")
def test_what_killed_uploads_left_is_swept_up(registry):
    left = Path(registry.home.root, "blobs", "sha256", "ab", f".{'ab' * 32}.0123456789ab")
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half")
    run(registry)
    assert left.exists()
    os.utime(left, (0, 0))
    run(registry)
    assert not left.exists()


def test_a_deployed_base_and_a_signature_stay(registry, folder, bot, tmp_path):
    """The base was retired before anybody looked at deployments; the signature is a blob that no manifest lists."""
    registry.sign(bot.ref, make_key(tmp_path / "key.pem"))
    assert run(registry).blobs == 0
    (folder / "base.txt").write_text("base")
    base = registry.register(folder, name="tiny", kind=ModelKind.BASE)
    deployed = DeploymentRecorded(
        application="app", base_model="tiny", base_digest=base.registered.manifest, url="http://x", ray_address=""
    )
    registry.submit(RecordDeployment(deployed))
    with pytest.raises(ConflictError, match="deployment at http://x serves it"):
        registry.retire("tiny:1.0.0")
    retired = VersionRetired(model="tiny", version="1.0.0")  # as an older release would have let through
    change = Change(time=registry.state.time, principal="x", idempotency_key="r", events=(retired,))
    CommitLog(registry.home).append(registry.head, [change])
    found = run(registry, purge_retired_after=NOW)
    assert (found.purged, found.blobs, found.manifests) == ((), 0, 0)


def test_a_deployed_adapter_stays(registry, bot):
    deployed = DeploymentRecorded(
        application="app",
        base_model="b",
        base_digest=Digest.of(b"b"),
        url="http://x",
        ray_address="",
        adapters=(bot.ref,),
    )
    registry.submit(RecordDeployment(deployed))
    retired = VersionRetired(model="bot", version="1.0.0")  # as an older release would have let through
    change = Change(time=registry.state.time, principal="x", idempotency_key="r", events=(retired,))
    CommitLog(registry.home).append(registry.head, [change])
    found = run(registry, purge_retired_after=NOW)
    assert (found.purged, found.blobs, found.manifests) == ((), 0, 0)


@pytest.fixture
def whole_models(tmp_path, monkeypatch):
    """Registers whole models of two tensors in chunks: ``whole_models(b"a", b"b")`` has two chunks and a header."""
    monkeypatch.setattr(blobs, "SMALLEST_FILE_BYTES", 1)
    monkeypatch.setattr(chunks, "_SMALLEST_CHUNK_BYTES", 100)

    def make(registry, *tensors):
        made = tmp_path / b"-".join(tensors).decode()
        made.mkdir(exist_ok=True)
        size = 4 * 100
        header = {
            str(number): {"dtype": "U8", "shape": [size], "data_offsets": [number * size, number * size + size]}
            for number in range(len(tensors))
        }
        text = json.dumps(header).encode()
        data = b"".join(one * size for one in tensors)
        (made / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        return registry.register(made, name="whole", kind=ModelKind.MERGED)

    return make


def chunk(letter):
    return Digest.of(letter * 400)


def test_chunks_stay_as_long_as_a_version_has_them(registry, whole_models):
    first, second = whole_models(registry, b"a", b"b"), whole_models(registry, b"a", b"c")
    assert run(registry).blobs == 0
    registry.retire(second.ref)
    assert run(registry, purge_retired_after=NOW).blobs == 2  # a list of chunks and one tensor
    kept = {digest for digest, _ in stored(registry)}
    assert {chunk(b"a"), chunk(b"b")} <= kept
    assert chunk(b"c") not in kept
    assert verify(registry.home).problems == ()
    assert registry.pull(first.ref)


def test_a_killed_upload_s_chunks_go(registry, whole_models, monkeypatch):
    def killed(_home, name, _data):
        assert name.endswith(".chunks")  # the list comes after the chunks
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Location, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            whole_models(registry, b"a", b"b")
    assert {chunk(b"a"), chunk(b"b")} <= {digest for digest, _ in stored(registry)}
    run(registry)
    assert stored(registry) == set()


def test_chunks_that_were_condemned_are_published_again(registry, whole_models, monkeypatch):
    """A version shares a chunk that nobody refers to yet, and that a collector gives up before it is registered."""
    first = whole_models(registry, b"a", b"b")
    registry.retire(first.ref)
    for path in registry_files(registry):
        os.utime(path, (0, 0))

    def collector():
        grace = dt.timedelta(hours=1)  # the second version's other files are too young to go
        run(registry_of(registry), grace=grace, purge_retired_after=NOW)
        registry.refresh()

    late(registry, monkeypatch, collector)
    second = whole_models(registry, b"a", b"c")
    assert (chunk(b"a"), 1) in stored(registry)
    assert registry.pull(second.ref)
    assert run(registry).blobs == 0
    assert verify(registry.home).problems == ()


def test_with_a_damaged_list_of_chunks_nothing_is_deleted(registry, whole_models):
    whole_models(registry, b"a", b"b")
    (path,) = [path for path in registry_files(registry) if path.suffix == ".chunks"]
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    before = stored(registry)
    with pytest.raises(IntegrityError, match="list of chunks"):
        run(registry)
    assert stored(registry) == before
    assert len(verify(registry.home).problems) == 1
