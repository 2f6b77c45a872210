"""The registry keeps what it acknowledged, and refuses what can't be."""

import datetime as dt

import pytest
from model_files import note_digest, store_note
from process_tools import child

from llamafarm_ray.errors import ConflictError, InputError, IntegrityError, NotFoundError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import MoveAlias, Register
from llamafarm_ray.registry.gc import collect
from llamafarm_ray.registry.history.snapshots import dump_state
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.storage import ContentStore, Location
from llamafarm_ray.types import Digest, ModelKind, ModelRef


def again(registry):
    """Another process's view of the same home."""
    return RegistryService(registry.home, principal="bob")


def snapshot(registry):
    return dump_state(registry.refresh())


def test_versions_count_up_from_one(registry, folder):
    refs = [registry.register(folder, name="bot", kind=ModelKind.ADAPTER).ref for _ in range(3)]
    assert refs == ["bot:1.0.0", "bot:1.1.0", "bot:1.2.0"]
    assert registry.register(folder, name="bot", kind=ModelKind.ADAPTER, bump="major").ref == "bot:2.0.0"


def test_a_version_number_is_never_used_twice(registry, folder):
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER, version="1.0.0")
    (folder / "note.txt").write_text("other content")
    with pytest.raises(ConflictError, match=r"1\.0\.0 is registered already"):
        registry.register(folder, name="bot", kind=ModelKind.ADAPTER, version="1.0.0")


def test_a_reopened_registry_is_the_same(registry, folder):
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.promote("bot:1.0.0", "production")
    assert snapshot(again(registry)) == snapshot(registry)


def test_a_bare_name_means_production_if_there_is_one_else_the_highest(registry, folder):
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER, version="9.0.0-rc.1")
    assert registry.resolve("bot").ref == "bot:1.1.0"
    registry.promote("bot:1.0.0", "production")
    assert registry.resolve("bot").ref == "bot:1.0.0"
    assert registry.latest("bot").ref == "bot:1.1.0"


def test_an_alias_keeps_its_history(registry, folder):
    for _ in range(2):
        registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.promote("bot:1.0.0", "production", reason="first")
    registry.promote("bot:1.1.0", "production", reason="better")
    moves = registry.state.models["bot"].aliases["production"]
    assert [(m.version, m.reason, m.principal) for m in moves] == [
        ("1.0.0", "first", "ann"),
        ("1.1.0", "better", "ann"),
    ]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("bod", "Did you mean bot"),
        ("bot:1.0.1", "Did you mean 1.0.0"),
        ("bot@prod", "production"),
        ("zzz", "There is: bot"),
    ],
)
def test_a_failed_look_up_suggests_what_is_near(registry, folder, reference, says):
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.promote("bot", "production")
    with pytest.raises(NotFoundError, match=says):
        registry.resolve(reference)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a b",
        "",
        "-a",
        "a/",
        "/a",
        "a//b",
        "a/b/c",
        "a/../b",
        "a:1.0.0",
        "a@b",
        "ü",
        "\N{FULLWIDTH LATIN SMALL LETTER A}",
        "a\0",
        "a" * 97,
        "a\n",
    ],
)
def test_a_bad_name_is_refused_and_nothing_is_written(registry, folder, tmp_path, name):
    with pytest.raises(InputError):
        registry.register(folder, name=name, kind=ModelKind.ADAPTER)
    assert not (tmp_path / "home").exists()


def test_a_repeated_call_with_one_key_changes_nothing(registry, folder):
    record = registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    command = MoveAlias(ModelRef.parse(record.ref), "production")
    first = registry.submit(command, idempotency_key="k")
    registry.submit(MoveAlias(ModelRef.parse(record.ref), "staging"))
    assert RegistryService(registry.home, principal="ann").submit(command, idempotency_key="k") == first
    assert len(registry.refresh().models["bot"].aliases["production"]) == 1


def test_a_repeated_registration_is_the_version_it_made(registry, folder):
    first = registry.register(folder, name="bot", kind=ModelKind.ADAPTER, version="1.0.0", idempotency_key="k")
    assert registry.register(folder, name="bot", kind=ModelKind.ADAPTER, version="1.0.0", idempotency_key="k") == first
    assert set(registry.state.models["bot"].versions) == {"1.0.0"}


def test_two_writers_at_once_both_land(registry, folder):
    other = again(registry)
    registry.register(folder, name="a", kind=ModelKind.ADAPTER)
    assert other.register(folder, name="a", kind=ModelKind.ADAPTER).ref == "a:1.1.0"
    registry.refresh()
    assert snapshot(registry) == snapshot(other)


def test_a_changed_commit_is_named(registry, folder, tmp_path):
    for _ in range(3):
        registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    path = min((tmp_path / "home" / "log").iterdir())
    path.write_bytes(path.read_bytes().replace(b'"ann"', b'"eve"'))
    with pytest.raises(IntegrityError, match=r"0{19}2\.json does not follow"):
        again(registry)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"format_version":1}'])
def test_a_damaged_commit_is_named(registry, folder, tmp_path, data):
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    path = tmp_path / "home" / "log" / f"{1:020d}.json"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=path.name):
        again(registry)


def next_version(model, version=None):
    return Register(model, ModelKind.CUSTOM, note_digest("x"), 1, version, bump="patch")


def test_a_manifest_that_nobody_stored_is_refused_and_nothing_is_committed(registry):
    with pytest.raises(InputError, match=r"bot can't get a version with the manifest sha256:.* is missing"):
        registry.submit(next_version("bot"))
    assert registry.refresh().sequence == 0


def test_a_manifest_whose_file_is_not_stored_is_refused(registry):
    store_note(registry.content, "x")
    registry.home.remove(registry.content.blobs.name(Digest.of(b"x")))
    with pytest.raises(InputError, match=r"its file sha256:.* is not stored"):
        registry.submit(next_version("bot"))


def test_a_manifest_that_was_given_up_as_garbage_is_refused_until_it_is_stored_again(registry):
    store_note(registry.content, "x")
    collect(registry, grace=dt.timedelta(), dry_run=False)
    with pytest.raises(InputError, match="is missing"):
        registry.submit(next_version("bot"))
    store_note(registry.content, "x")
    registry.submit(next_version("bot"))
    assert verify(registry.home).problems == ()


def test_files_condemned_while_they_are_registered_are_refused(registry, monkeypatch):
    """Between the look at the files and the commit a collector comes by."""
    store_note(registry.content, "x")
    collector, decide, collected = RegistryService(registry.home), Register.decide, []

    def late(command, state, context):
        if not collected:
            collected.append(collect(collector, grace=dt.timedelta(), dry_run=False))
        return decide(command, state, context)

    monkeypatch.setattr(Register, "decide", late)
    with pytest.raises(ConflictError, match="given up as garbage"):
        registry.submit(next_version("bot"))


def test_files_seen_before_are_not_looked_at_again_and_refused_once_another_process_gave_them_up(registry, monkeypatch):
    store_note(registry.content, "x")
    registry.submit(next_version("bot"))
    with monkeypatch.context() as patch:
        patch.setattr(type(registry.content), "size", None)
        patch.setattr(type(registry.content), "manifest", None)
        registry.submit(next_version("bot"))
    other = RegistryService(registry.home)
    for version in ("1.0.0", "1.0.1"):
        other.retire(f"bot:{version}")
    collect(other, grace=dt.timedelta(), purge_retired_after=dt.timedelta(), dry_run=False)
    with pytest.raises(ConflictError, match="given up as garbage"):
        registry.submit(next_version("bot"))
    store_note(registry.content, "x")
    registry.submit(next_version("bot"))
    assert verify(registry.home).problems == ()


def test_a_repeated_registration_needs_no_files_any_more(registry):
    store_note(registry.content, "x")
    first = registry.submit(next_version("bot"), idempotency_key="k")
    registry.retire("bot:1.0.0")
    collect(registry, grace=dt.timedelta(), purge_retired_after=dt.timedelta(), dry_run=False)
    assert registry.submit(next_version("bot"), idempotency_key="k") == first
    assert RegistryService(registry.home, principal="ann").submit(next_version("bot"), idempotency_key="k") == first


def _write_many(home, count):
    registry = RegistryService(Location(home))
    for _ in range(count):
        registry.submit(next_version("bot"))


def test_four_processes_leave_no_gap_and_no_double(tmp_path):
    store_note(ContentStore(Location(tmp_path)), "x")
    processes = [child(_write_many, str(tmp_path), 20) for _ in range(4)]
    [process.start() for process in processes]
    [process.join() for process in processes]
    assert [process.exitcode for process in processes] == [0] * 4
    registry = RegistryService(Location(tmp_path))
    assert registry.state.sequence == 80
    assert set(registry.state.models["bot"].versions) == {f"1.0.{n}" for n in range(80)}
