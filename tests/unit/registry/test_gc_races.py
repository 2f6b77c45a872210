"""A collector beside others that publish, register, deploy, sign, pull and collect."""

import datetime as dt
from pathlib import Path

import pytest
from collector import NOW, deployed_base, late, registry_of, run, stored, while_marking
from signing_key import make_key

from llamafarm_ray.errors import ConflictError, IntegrityError
from llamafarm_ray.registry import RegistryService, signing
from llamafarm_ray.registry.commands import Sign
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.types import ModelKind, ModelRef


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


def test_a_version_that_ends_while_a_pull_begins_is_not_pulled(registry, bot, monkeypatch, tmp_path):
    cold = RegistryService(registry.home, cache=tmp_path / "cold")
    pull = cold.content.pull

    def late(digest, **options):
        registry.retire(bot.ref, "too late")
        return pull(digest, **options)

    monkeypatch.setattr(cold.content, "pull", late)
    with pytest.raises(ConflictError, match="retired: too late"):
        cold.pull(bot.ref)
