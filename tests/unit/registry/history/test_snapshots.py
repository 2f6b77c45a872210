"""Snapshots change nothing: with them, without them, or with damaged ones a registry reads the same."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import note_digest, store_note

from llamafarm_ray.errors import ConflictError, IntegrityError, LlamaFarmError
from llamafarm_ray.registry import Policy, RegistryService
from llamafarm_ray.registry.commands import (
    AddPrincipal,
    Approve,
    Condemn,
    ContentMovedError,
    Deprecate,
    Grant,
    MoveAlias,
    PauseRollout,
    PromoteRollout,
    Purge,
    RecordMetrics,
    Register,
    RegisterDataset,
    ResumeRollout,
    Retire,
    Revoke,
    Rollback,
    SetPolicy,
    StartRollout,
    StepRollout,
    StopRollout,
    Tag,
)
from llamafarm_ray.registry.events import DatasetRegistered
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.history.snapshots import dump_state, load_state
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.registry.rollouts import AbPlan, BlueGreenPlan, CanaryPlan, Guards, ShadowPlan, Step
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind, ModelRef, Version

NUMBERS = ["0.1.0", "1.0.0-rc.1", "1.0.0", "2.0.0"]
refs = st.builds(ModelRef, st.sampled_from(["a", "ns/b"]), st.sampled_from(NUMBERS).map(Version.parse))
NOTES = "xyz"
digests = st.sampled_from([note_digest(text) for text in NOTES])
aliases = st.sampled_from(["production", "staging"])
plans = st.sampled_from(
    [
        CanaryPlan(
            steps=(Step(percent=5, dwell_s=1), Step(percent=50, dwell_s=0)), guards=Guards(metrics={"x": ">-9"})
        ),
        BlueGreenPlan(steps=(Step(percent=100, dwell_s=9),), guards=Guards(max_error_rate=0.1)),
        AbPlan(metric="latency", guards=Guards(max_error_ratio=1.5)),
        ShadowPlan(percent=10),
    ]
)
of_alias = (st.sampled_from(["a", "ns/b"]), aliases)
names = st.sampled_from(["root", "dan"])
grants = st.dictionaries(st.sampled_from(["*", "", "ns"]), st.sampled_from(list(Role)), max_size=2)
commands = st.one_of(
    st.builds(
        Register,
        st.sampled_from(["a", "ns/b"]),
        st.sampled_from(list(ModelKind)),
        digests,
        st.just(1),
        st.one_of(st.none(), st.sampled_from(NUMBERS)),
        st.sampled_from(["major", "minor", "patch"]),
        st.fixed_dictionaries({"metrics": st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False))}),
    ),
    st.builds(MoveAlias, refs, aliases),
    st.builds(Rollback, st.sampled_from(["a", "ns/b"]), aliases, st.one_of(st.none(), st.sampled_from(NUMBERS))),
    st.builds(StartRollout, refs, aliases, plans),
    st.one_of(*(st.builds(kind, *of_alias) for kind in (StepRollout, PauseRollout, ResumeRollout, PromoteRollout))),
    st.builds(StopRollout, *of_alias, st.none(), st.booleans()),
    st.builds(RecordMetrics, refs, st.dictionaries(st.text(max_size=3), st.integers() | st.text())),
    st.builds(Tag, refs, st.tuples(st.text(max_size=5)), st.just(())),
    st.builds(Deprecate, refs, st.text(max_size=5)),
    st.builds(Retire, refs, st.text(max_size=5)),
    st.builds(Purge, refs),
    st.builds(Approve, refs, aliases),
    st.builds(SetPolicy, aliases, st.builds(Policy, approvals=st.integers(0, 2))),
    st.builds(
        RegisterDataset,
        st.builds(
            DatasetRegistered, name=st.just("d"), digest=digests, num_train=st.just(1), num_validation=st.just(0)
        ),
    ),
    st.builds(AddPrincipal, names, digests, grants),
    st.builds(Grant, names, grants),
    st.builds(Revoke, names),
    st.builds(Condemn, st.dictionaries(digests, st.integers(0, 2), max_size=2), st.just(frozenset())),
)


def opened(folder, **options):
    registry = RegistryService(Location(folder), principal="ann", **options)
    store_notes(registry)
    return registry


def store_notes(registry):
    """What is registered here, stored anew where it was condemned."""
    for text in NOTES:
        store_note(registry.content, text)


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(st.lists(commands, max_size=30))
def test_any_sequence_of_commands_replays_to_the_same_state(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("home")
    registry = opened(folder, commits_a_snapshot=4)
    used = set()
    for command in steps:
        store_notes(registry)
        try:
            outcome = registry.submit(command)
        except (LlamaFarmError, ContentMovedError):
            continue
        for event in outcome.events:
            if event.type == "version_registered":
                assert (event.model, event.version) not in used
                used.add((event.model, event.version))
    registry.close()
    expected = dump_state(registry.state)
    assert dump_state(load_state(expected)) == expected
    assert load_state(expected) == registry.state
    assert dump_state(opened(folder).state) == expected
    shutil.rmtree(folder / "snapshots", ignore_errors=True)
    assert dump_state(opened(folder).state) == expected
    assert verify(Location(folder), blobs=False).problems == ()
    assert {(record.registered.model, record.registered.version) for record in registry.state.versions()} == used


@pytest.fixture
def with_snapshots(tmp_path):
    """Twelve commits and a snapshot after every fifth."""
    registry = opened(tmp_path, commits_a_snapshot=5)
    for _ in range(12):
        registry.submit(Register("bot", ModelKind.CUSTOM, note_digest("x"), 1))
    registry.close()
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [f"{n:020d}.json" for n in (5, 10)]
    return tmp_path


def test_only_what_came_after_the_newest_snapshot_is_read(with_snapshots):
    for number in range(1, 10):
        (with_snapshots / "log" / f"{number:020d}.json").rename(with_snapshots / f"away-{number}")
    assert opened(with_snapshots).state.sequence == 12


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"1.3.0"', b'"1.3.1"')),
        lambda path: path.write_bytes(b'{"head": 1, "state": 2}\n{}'),
        lambda path: path.write_bytes(b"[]\n[]"),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"head": "sha256:', b'"head": "sha256:0', 1)),
    ],
)
def test_a_damaged_snapshot_costs_time_and_nothing_else(with_snapshots, damage):
    expected = dump_state(opened(with_snapshots).state)
    newest = max((with_snapshots / "snapshots").iterdir())
    damage(newest)
    assert dump_state(opened(with_snapshots).state) == expected
    assert any("snapshot" in problem for problem in verify(Location(with_snapshots), blobs=False).problems)


def test_a_snapshot_of_an_earlier_release_is_passed_over(with_snapshots):
    """It is no damage, and what its states did not have yet is read from the log."""
    expected = dump_state(opened(with_snapshots).state)
    for path in (with_snapshots / "snapshots").iterdir():
        path.write_bytes(
            path.read_bytes().replace(b'"format_version": 3', b'"format_version": 2').replace(b"bot", b"old")
        )
    assert dump_state(opened(with_snapshots).state) == expected
    assert verify(Location(with_snapshots), blobs=False).problems == ()


def test_a_snapshot_of_another_history_is_not_believed(with_snapshots, tmp_path_factory):
    other = opened(tmp_path_factory.mktemp("other"), commits_a_snapshot=10)
    for _ in range(10):
        other.submit(Register("evil", ModelKind.CUSTOM, note_digest("x"), 1))
    other.close()
    forged = max((tmp_path_factory.getbasetemp()).glob("other*")) / "snapshots" / f"{10:020d}.json"
    shutil.copy(forged, with_snapshots / "snapshots")
    assert set(opened(with_snapshots).state.models) == {"bot"}


def test_a_log_that_ends_before_a_snapshot_was_cut_off_and_nothing_is_written_into_the_gap(with_snapshots):
    for number in range(8, 13):
        (with_snapshots / "log" / f"{number:020d}.json").unlink()
    with pytest.raises(IntegrityError, match="ends with commit 7, and there is a snapshot of commit 10"):
        opened(with_snapshots)
    (with_snapshots / "snapshots" / f"{10:020d}.json").unlink()
    assert opened(with_snapshots).state.sequence == 7


def test_a_snapshot_with_another_head_is_not_believed_even_as_the_last_word(with_snapshots):
    for number in (11, 12):
        (with_snapshots / "log" / f"{number:020d}.json").unlink()
    newest = max((with_snapshots / "snapshots").iterdir())
    first, _, body = newest.read_bytes().partition(b"\n")
    header = json.loads(first) | {"head": "sha256:" + "0" * 64}
    newest.write_bytes(json.dumps(header).encode() + b"\n" + body)
    registry = opened(with_snapshots)
    registry.submit(Register("bot", ModelKind.CUSTOM, note_digest("x"), 1))
    assert [commit.sequence for commit in registry.commits()] == list(range(1, 12))


def test_a_state_of_the_past_is_read_from_the_snapshot_before_it(with_snapshots):
    registry = opened(with_snapshots)
    times = [commit.time for commit in registry.commits()]
    for number, time in enumerate(times, start=1):
        assert registry.state_at(time).sequence == number


def test_a_snapshot_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "snapshots").write_text("no folder")
    registry = opened(tmp_path, commits_a_snapshot=1)
    for _ in range(3):
        registry.submit(Register("bot", ModelKind.CUSTOM, note_digest("x"), 1))
    registry.close()
    with pytest.raises(ConflictError):
        registry.submit(Register("bot", ModelKind.CUSTOM, note_digest("x"), 1, "1.0.0"))
