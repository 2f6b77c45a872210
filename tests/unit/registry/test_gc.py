"""Garbage collection deletes what nothing refers to, and nothing else, whoever else is at work."""

import datetime as dt
import os
from pathlib import Path

import pytest
from signing_key import make_key

from llamafarm_ray.errors import AccessDeniedError, ConflictError, IntegrityError
from llamafarm_ray.registry import Change, CommitLog, DeploymentRecorded, RegistryService, signing
from llamafarm_ray.registry.access import Role
from llamafarm_ray.registry.commands import RecordDeployment, Sign
from llamafarm_ray.registry.events import VersionRetired
from llamafarm_ray.registry.gc import collect
from llamafarm_ray.registry.verify import verify
from llamafarm_ray.types import Digest, ModelKind, ModelRef

NOW = dt.timedelta(0)


def stored(registry):
    return {(blob.digest, blob.generation) for blob in registry.content.stored()}


def run(registry, **options):
    return collect(registry, **{"grace": NOW, "dry_run": False, **options})


@pytest.fixture
def bot(registry, folder):
    return registry.register(folder, name="bot", kind=ModelKind.ADAPTER)


@pytest.fixture
def orphan(registry, folder):
    """A folder that was published and never registered: one file that no version has, and its manifest."""
    (folder / "orphan.txt").write_text("nobody's")
    manifest = registry.content.publish(folder)
    (folder / "orphan.txt").unlink()
    return manifest


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


def test_a_paused_collector_cannot_delete_what_was_published_meanwhile(registry, folder, orphan, monkeypatch):
    """It condemned, slept, and deletes only after somebody registered the same bytes."""
    remove = registry.content.remove
    published = []

    def late(*args):
        if not published:
            (folder / "orphan.txt").write_text("nobody's")
            other = RegistryService(registry.home)
            published.append(other.register(folder, name="bot", kind=ModelKind.ADAPTER))
        remove(*args)

    monkeypatch.setattr(registry.content, "remove", late)
    run(registry)
    assert published[0].registered.manifest == orphan.digest
    assert verify(registry.home).problems == ()


def test_a_version_registered_while_marking_is_seen(registry, folder, orphan, monkeypatch):
    """The collector has looked at everything; before it commits, the orphan gets a version."""
    submit = registry.submit
    registered = []

    def late(command, **options):
        if not registered:
            (folder / "orphan.txt").write_text("nobody's")
            registered.append(RegistryService(registry.home).register(folder, name="bot", kind=ModelKind.ADAPTER))
        return submit(command, **options)

    monkeypatch.setattr(registry, "submit", late)
    run(registry)
    assert registered[0].registered.manifest == orphan.digest
    assert verify(registry.home).problems == ()


def deployed_base(digest):
    return RecordDeployment(
        DeploymentRecorded(application="app", base_model="b", base_digest=digest, url="http://x", ray_address="")
    )


@pytest.mark.usefixtures("bot")
def test_a_deployed_base_without_a_version_stays(registry, orphan):
    registry.submit(deployed_base(orphan.digest))
    assert run(registry).blobs == 0
    assert orphan.digest in {digest for digest, _ in stored(registry)}


@pytest.mark.usefixtures("bot")
def test_a_deployment_recorded_while_marking_is_seen(registry, orphan, monkeypatch):
    late(registry, monkeypatch, lambda: registry_of(registry).submit(deployed_base(orphan.digest)))
    assert run(registry).blobs == 0
    assert orphan.digest in {digest for digest, _ in stored(registry)}


def test_a_signature_recorded_while_marking_is_seen(registry, bot, tmp_path, monkeypatch):
    signature = signing.sign(registry.pull(bot.ref), make_key(tmp_path / "key.pem"))
    digest = registry.content.publish_bytes(signature.bundle)
    key = signing.key_digest(signature.public_key)
    command = Sign(ModelRef.parse(bot.ref), digest, signature.public_key, key)
    late(registry, monkeypatch, lambda: registry_of(registry).submit(command))
    assert run(registry).blobs == 0
    assert verify(registry.home).problems == ()


def late(registry, monkeypatch, act):
    """Have something happen between a collector's look and its commit."""
    submit, done = registry.submit, []

    def interrupted(command, **options):
        if not done:
            done.append(act())
        return submit(command, **options)

    monkeypatch.setattr(registry, "submit", interrupted)


def registry_of(registry):
    """Another process's registry."""
    return RegistryService(registry.home)


def test_a_publisher_whose_bytes_are_condemned_stores_them_again(registry, folder, monkeypatch):
    """Between its upload and its commit a collector without grace comes by."""
    publish = registry.content.publish
    collector = RegistryService(registry.home)
    rounds = []

    def interrupted(path, **options):
        manifest = publish(path, **options)
        if len(rounds) < 2:
            rounds.append(run(collector).blobs)
        return manifest

    monkeypatch.setattr(registry.content, "publish", interrupted)
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    assert rounds == [1, 1]
    assert verify(registry.home).problems == ()


def test_a_collector_that_never_stops_ends_in_a_clear_error(registry, folder, monkeypatch):
    publish = registry.content.publish
    collector = RegistryService(registry.home)

    def interrupted(path, **options):
        manifest = publish(path, **options)
        run(collector)
        return manifest

    monkeypatch.setattr(registry.content, "publish", interrupted)
    with pytest.raises(ConflictError, match="Garbage collection kept"):
        registry.register(folder, name="bot", kind=ModelKind.ADAPTER)


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


def test_a_pull_under_way_keeps_what_it_reads(registry, folder, monkeypatch, tmp_path):
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    puller = RegistryService(registry.home, cache=tmp_path / "cold")
    stream = puller.home.stream
    began, collected = [], []

    def slow(name, start=0):
        if not began:
            began.append(name)
            registry.content.publish(folder)
            registry.retire("bot:1.0.0")
            registry.retire("bot:1.1.0")
            collected.append(run(registry, purge_retired_after=NOW))
        yield from stream(name, start)

    monkeypatch.setattr(type(puller.home), "stream", lambda _self, name, start=0: slow(name, start))
    assert (puller.pull("bot:1.0.0") / "adapter_model.safetensors").is_file()
    assert collected[0].kept_by_lease == 1
    assert collected[0].blobs == 0
    monkeypatch.undo()
    assert run(registry).blobs == 1


@pytest.mark.usefixtures("orphan")
def test_without_a_readable_manifest_nothing_is_deleted(registry, bot):
    manifest = Path(registry.home.root, "manifests", "sha256", f"{bot.registered.manifest[7:]}.json")
    manifest.write_bytes(b"{}")
    before = stored(registry)
    with pytest.raises(IntegrityError, match="manifest"):
        run(registry)
    assert stored(registry) == before


@pytest.fixture
def retired(registry, folder, bot):
    """A version beside ``bot`` that the next collector gives up."""
    (folder / "second.txt").write_text("2")
    record = registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.retire(record.ref)
    assert record.registered.manifest != bot.registered.manifest
    return record


def while_marking(registry, monkeypatch, act, *, times=1):
    """Have something happen after a collector looked at the versions, before it reads their manifests."""
    leased, done = registry.content.leased, []

    def interrupted():
        if len(done) < times:
            done.append(act())
        return leased()

    monkeypatch.setattr(registry.content, "leased", interrupted)


def test_what_another_collector_gave_up_while_marking_is_no_damage(registry, bot, retired, monkeypatch):
    while_marking(registry, monkeypatch, lambda: run(registry_of(registry), purge_retired_after=NOW))
    assert run(registry).blobs == 0
    assert registry.resolve(retired.ref).status == "purged"
    assert registry.pull(bot.ref)
    assert verify(registry.home).problems == ()


def test_damage_is_said_also_while_others_keep_changing_things(registry, bot, monkeypatch):
    manifest = Path(registry.home.root, "manifests", "sha256", f"{bot.registered.manifest[7:]}.json")
    manifest.write_bytes(b"{}")
    numbers = iter(range(100))
    other = registry_of(registry)
    while_marking(registry, monkeypatch, lambda: other.promote(bot.ref, f"alias-{next(numbers)}"), times=100)
    with pytest.raises(IntegrityError, match="manifest"):
        run(registry)


@pytest.mark.usefixtures("bot")
def test_what_was_given_up_and_registered_again_while_marking_stays(registry, folder, retired, monkeypatch):
    def renew():
        run(registry_of(registry), purge_retired_after=NOW)
        return registry_of(registry).register(folder, name="bot", kind=ModelKind.ADAPTER)

    while_marking(registry, monkeypatch, renew)
    assert run(registry).blobs == 0
    assert registry.resolve("bot:1.2.0").registered.manifest == retired.registered.manifest
    assert registry.pull("bot:1.2.0")
    assert verify(registry.home).problems == ()


def test_only_an_admin_may_collect(registry):
    root = RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))
    dan = RegistryService(registry.home, token=root.add_principal("dan", {"*": Role.DEPLOYER}))
    with pytest.raises(AccessDeniedError, match="collect garbage"):
        collect(dan)


@pytest.mark.usefixtures("bot")
def test_a_collector_with_an_old_state_leaves_newer_generations_alone(registry, folder, orphan, monkeypatch):
    """Another collector condemned the orphan, and it was published anew, while this one still knew nothing of it."""
    stored_blobs, published = registry.content.stored, []

    def late():
        if not published:
            other = RegistryService(registry.home)
            run(other)
            (folder / "orphan.txt").write_text("nobody's")
            published.append(other.content.publish(folder))
        yield from stored_blobs()

    monkeypatch.setattr(registry.content, "stored", late)
    run(registry, grace=dt.timedelta(seconds=-5))  # as if its clock were ahead
    assert (orphan.digest, 1) in stored(registry)


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


def test_verify_beside_a_collector_raises_no_false_alarm(registry, folder, bot, monkeypatch):
    from llamafarm_ray.storage import ContentStore

    del bot
    (folder / "second.txt").write_text("2")
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    manifest, done = ContentStore.manifest, []

    def late(self, digest):
        if not done:
            done.append(True)
            registry.retire("bot:1.1.0")
            run(registry, purge_retired_after=NOW)
        return manifest(self, digest)

    monkeypatch.setattr(ContentStore, "manifest", late)
    assert verify(registry.home).problems == ()


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


def test_a_version_that_ends_while_a_pull_begins_is_not_pulled(registry, bot, monkeypatch, tmp_path):
    cold = RegistryService(registry.home, cache=tmp_path / "cold")
    pull = cold.content.pull

    def late(digest, **options):
        registry.retire(bot.ref, "too late")
        return pull(digest, **options)

    monkeypatch.setattr(cold.content, "pull", late)
    with pytest.raises(ConflictError, match="retired: too late"):
        cold.pull(bot.ref)


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
