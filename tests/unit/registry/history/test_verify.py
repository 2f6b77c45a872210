"""Whatever is damaged, missing or forged is found and named."""

import datetime as dt
import json
from dataclasses import replace
from typing import get_args

import pytest

from llamafarm_ray.errors import AccessDeniedError, IntegrityError
from llamafarm_ray.registry import (
    Change,
    CommitLog,
    DatasetRegistered,
    DeploymentRecorded,
    Event,
    Head,
    Policy,
    RegistryService,
)
from llamafarm_ray.registry.commands import (
    Grant,
    PauseRollout,
    PromoteRollout,
    RecordDeployment,
    RegisterDataset,
    RemoveDeployment,
    ResumeRollout,
    Revoke,
    SetPolicy,
    SetQuota,
    StartRollout,
    StepRollout,
    StopRollout,
)
from llamafarm_ray.registry.events import (
    AliasMoved,
    ContentCondemned,
    PolicySet,
    PrincipalGranted,
    PrincipalRevoked,
    QuotaSet,
    RolloutPaused,
    RolloutStarted,
    RolloutStepped,
    RolloutStopped,
    VersionPurged,
    VersionRetired,
    VersionTagged,
)
from llamafarm_ray.registry.gc import collect
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.registry.rollouts import CanaryPlan, Step
from llamafarm_ray.registry.usage import Quota
from llamafarm_ray.types import Digest, ModelKind, ModelRef, Version


@pytest.fixture
def home(registry, folder):
    """Four commits: two versions of other bytes, and an alias that moves."""
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.promote("bot:1.0.0", "production")
    (folder / "note.txt").write_text("more")
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.promote("bot:1.1.0", "production")
    return registry.home


def log_file(home, sequence):
    return next(path for path in (home_path(home) / "log").iterdir() if path.name == f"{sequence:020d}.json")


def home_path(home):
    from pathlib import Path

    return Path(home.root)


def blob(home, text):
    return next(path for path in (home_path(home) / "blobs").rglob("*") if path.is_file() and path.read_bytes() == text)


def only_problem(home, **options):
    (problem,) = verify(home, **options).problems
    return problem


def test_a_good_registry_has_no_problem(home, registry):
    found = verify(home, head=registry.head)
    assert found.problems == ()
    assert (found.commits, found.blobs, found.head) == (4, 2, registry.head)
    assert found.bytes == sum(path.stat().st_size for path in (home_path(home) / "blobs").rglob("*") if path.is_file())


@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_a_changed_commit_breaks_the_chain_right_after_it(home, sequence):
    path = log_file(home, sequence)
    path.write_bytes(path.read_bytes().replace(b'"ann"', b'"eve"'))
    assert f"{sequence + 1:020d}.json does not follow" in only_problem(home)
    assert verify(home).commits == sequence


def test_a_changed_last_commit_differs_from_the_head_kept_elsewhere(home, registry):
    path = log_file(home, 4)
    path.write_bytes(path.read_bytes().replace(b'"ann"', b'"eve"'))
    assert verify(home).problems == ()
    assert "commit 4 is not the one that the head given names" in only_problem(home, head=registry.head)


@pytest.mark.parametrize("sequence", [1, 4])
@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_commit_is_named(home, sequence, keep):
    path = log_file(home, sequence)
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{sequence:020d}.json is damaged" in only_problem(home)
    with pytest.raises(IntegrityError, match=path.name):
        RegistryService(home)


@pytest.mark.parametrize("bit", [0, 100, 333])
def test_a_flipped_bit_in_a_commit_is_found(home, registry, bit):
    path = log_file(home, 2)
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))
    assert verify(home, head=registry.head).problems


def test_a_missing_commit_is_named_and_nothing_is_written_over_it(home):
    log_file(home, 2).unlink()
    assert f"{2:020d}.json is missing, and there are later ones" in only_problem(home)
    with pytest.raises(IntegrityError, match="is missing"):
        RegistryService(home)


def test_a_cut_off_tail_is_found_with_a_head_kept_elsewhere(home, registry):
    log_file(home, 4).unlink()
    assert verify(home).problems == ()
    assert "The log ends at commit 3, and commit 4 was there" in only_problem(home, head=registry.head)


def test_a_commit_that_no_service_would_write_is_called_forged(home, registry):
    move = AliasMoved(model="bot", alias="production", version="6.6.6")
    now = registry.state.time
    CommitLog(home).append(registry.head, [Change(time=now, principal="eve", idempotency_key="e", events=(move,))])
    assert "commit 5" in only_problem(home)


def forge(registry, principal, *events, time=None):
    """A commit that follows from the last one, by whoever can write to the home."""
    state = registry.refresh()
    change = Change(time=time or state.time, principal=principal, idempotency_key="e", events=events)
    return CommitLog(registry.home).append(registry.head, [change])


@pytest.fixture
def root(home, registry):
    """An admin's registry: from here on roles count."""
    return RegistryService(home, token=registry.add_principal("root", {"*": Role.ADMIN}))


MOVE = AliasMoved(model="bot", alias="production", version="1.0.0")
SERVED = DeploymentRecorded(
    application="app", base_model="bot", base_digest="sha256:" + "0" * 64, url="http://x", ray_address=""
)
CANARY = CanaryPlan(steps=(Step(percent=5, dwell_s=60), Step(percent=50, dwell_s=60)))
STARTED = RolloutStarted(model="bot", alias="production", number=1, baseline="1.1.0", candidate="1.0.0", plan=CANARY)
ROLLOUT = {"model": "bot", "alias": "production", "number": 1}
FORGED = [
    ("dan", STARTED, "'dan' may not roll out: that takes the role deployer"),
    ("root", STARTED.model_copy(update={"baseline": "1.0.0"}), "points at 1.1.0, not at 1.0.0"),
    ("root", STARTED.model_copy(update={"number": 2}), "is number 1, not 2"),
    ("root", STARTED.model_copy(update={"candidate": "1.1.0"}), "points at bot:1.1.0 already"),
    ("dan", MOVE, "'dan' may not move alias: that takes the role deployer"),
    ("vic", VersionTagged(model="bot", version="1.0.0", tags=("good",)), "may not tag"),
    ("dan", VersionRetired(model="bot", version="1.0.0"), "may not retire"),
    ("dan", VersionPurged(model="bot", version="1.0.0"), "is not retired"),
    ("dan", PolicySet(alias="production", policy=Policy()), "may not set policy"),
    ("dan", QuotaSet(namespace="", quota=Quota()), "may not set policy"),
    ("dan", SERVED, "may not deploy"),
    ("dan", PrincipalGranted(name="dan", grants={"*": Role.ADMIN}), "may not manage principals"),
    ("dan", ContentCondemned(generations={}), "may not collect garbage"),
    ("root", ContentCondemned(generations={"sha256:" + "0" * 64: 3}), "another generation"),
    ("root", PrincipalRevoked(name="root"), "last admin"),
    ("unknown", MOVE, "no principal 'unknown'"),
    ("eve", MOVE, "no principal 'eve'"),
]


@pytest.mark.parametrize(("who", "event", "says"), FORGED, ids=lambda value: getattr(value, "type", None))
def test_a_commit_by_who_had_no_right_is_the_first_bad_one(root, who, event, says):
    root.add_principal("dan", {"*": Role.DEVELOPER})
    root.add_principal("vic", {"*": Role.VIEWER})
    before = root.refresh().sequence
    good = root.head
    forge(root, who, event)
    RegistryService(root.home)  # it is in the chain, and read
    found = verify(root.home, blobs=False)
    assert found.problems[0].startswith(f"The commit {before + 1} is forged: ")
    assert says in found.problems[0]
    assert (found.commits, found.head) == (before, good)


def test_a_commit_with_a_revoked_or_expired_token_is_forged(root):
    now = dt.datetime.now(dt.UTC)
    root.add_principal("dan", {"*": Role.ADMIN})
    root.submit(Revoke("dan"))
    root.add_principal("eva", {"*": Role.ADMIN}, expires=now + dt.timedelta(minutes=1))
    forge(root, "dan", MOVE)
    forge(root, "eva", MOVE, time=now + dt.timedelta(minutes=2))
    revoked, expired = verify(root.home, blobs=False).problems
    assert "'dan' was revoked" in revoked
    assert "'eva' had expired" in expired


@pytest.mark.parametrize("policy", [{"licenses": ("MIT",)}, {"approvals": 1}, {"metrics": {"accuracy": ">0.9"}}])
def test_an_alias_moved_against_its_policy_is_forged(root, policy):
    root.submit(SetPolicy("production", Policy.model_validate(policy)))
    before = root.refresh().sequence
    forge(root, "root", MOVE)
    assert (
        verify(root.home, blobs=False).problems[0].startswith(f"The commit {before + 1} is forged: bot:1.0.0 may not")
    )


def test_a_rollout_against_the_aliass_policy_is_forged(root):
    root.submit(SetPolicy("production", Policy(approvals=1)))
    forge(root, "root", STARTED)
    assert "is forged: bot:1.0.0 may not become 'production'" in verify(root.home, blobs=False).problems[0]


@pytest.mark.parametrize(
    "event", [RolloutStepped(**ROLLOUT, step=1), RolloutPaused(**ROLLOUT), RolloutStopped(**ROLLOUT)]
)
def test_a_change_of_a_rollout_that_is_over_is_forged(root, event):
    root.submit(StartRollout(ModelRef("bot", version=Version(1, 0, 0)), "production", CANARY))
    root.submit(StopRollout("bot", "production"))
    forge(root, "root", event)
    assert "is over: it was aborted" in verify(root.home, blobs=False).problems[0]


def test_every_sort_of_commit_of_the_service_is_lawful(root, folder):
    root.submit(SetPolicy("production", Policy(approvals=1)))
    root.submit(SetQuota("", Quota(device_hours=1)))
    dan = RegistryService(root.home, token=root.add_principal("dan", {"*": Role.DEPLOYER}))
    dan.approve("bot:1.0.0", "production")
    root.promote("bot:1.0.0", "production")
    root.rollback("bot", "production")
    bot = ("bot", "production")
    for command in (
        StartRollout(ModelRef("bot", version=Version(1, 0, 0)), "production", CANARY),
        PauseRollout(*bot),
        ResumeRollout(*bot),
        StepRollout(*bot),
        StopRollout(*bot, is_rollback=True),
        StartRollout(ModelRef("bot", version=Version(1, 0, 0)), "production", CANARY),
        PromoteRollout(*bot),
    ):
        root.submit(command, reason="try it")
    root.rollback("bot", "production")
    root.unalias("bot", "production")
    dan.record_metrics("bot:1.0.0", {"accuracy": 1})
    dan.tag("bot:1.0.0", add=("a", "b"))
    dan.tag("bot:1.0.0", add=("c",), remove=("a",))
    dan.deprecate("bot:1.0.0", "old")
    for command in (RecordDeployment(SERVED), RemoveDeployment(SERVED)):
        dan.submit(command)
    dan.submit(RegisterDataset(DatasetRegistered(name="d", digest=SERVED.base_digest, num_train=1, num_validation=0)))
    dan.retire("bot:1.1.0")
    with pytest.raises(AccessDeniedError):
        dan.add_principal("eve", {"*": Role.ADMIN})
    collect(root, grace=dt.timedelta(), purge_retired_after=dt.timedelta(), dry_run=False)
    (folder / "new.txt").write_text("new")
    dan.register(folder, name="bot", kind=ModelKind.ADAPTER)
    root.submit(Grant("dan", {"": Role.VIEWER}))
    root.submit(Revoke("dan"))
    assert verify(root.home).problems == ()
    told = {event.type for commit in root.commits() for change in commit.changes for event in change.events}
    assert told == {kind.model_fields["type"].default for kind in get_args(get_args(Event)[0])} - {"version_signed"}


def test_a_rewritten_history_is_found_with_a_head_kept_elsewhere(home, registry):
    changes = [commit.changes for commit in registry.commits()]
    for sequence in range(1, 5):
        log_file(home, sequence).unlink()
    head = Head(0, Digest("sha256:" + "0" * 64))
    for change in changes:
        _, head = CommitLog(home).append(head, [replace_principal(one) for one in change])
    assert verify(home).problems == ()
    assert "history was rewritten" in only_problem(home, head=registry.head)


def replace_principal(change):
    return change.model_copy(update={"principal": "eve"})


def test_a_flipped_bit_in_a_file_is_found_and_named(home):
    path = blob(home, b"more")
    path.chmod(0o644)
    path.write_bytes(b"mora")
    problem = only_problem(home)
    assert "bot:1.1.0: note.txt" in problem
    assert verify(home, blobs=False).problems == ()


def test_a_missing_file_is_found_and_named(home):
    blob(home, b"more").unlink()
    assert "bot:1.1.0: note.txt" in only_problem(home)


def test_a_missing_or_changed_manifest_is_found(home):
    first, second = sorted((home_path(home) / "manifests" / "sha256").iterdir())
    first.unlink()
    second.write_bytes(b"{}")
    problems = verify(home).problems
    assert len(problems) == 2
    assert all("manifest" in problem for problem in problems)


def test_a_newer_release_s_commit_is_no_damage_to_hide(home):
    path = log_file(home, 4)
    commit = json.loads(path.read_bytes())
    commit["changes"][0]["events"][0]["type"] = "alias_painted"
    path.write_text(json.dumps(commit))
    with pytest.raises(IntegrityError, match="newer release"):
        RegistryService(home)


def test_reading_on_after_a_damaged_commit_loses_nothing_before_it(home, registry):
    reader = RegistryService(home)
    registry.tag("bot:1.0.0", add=("a",))
    registry.tag("bot:1.0.0", add=("b",))
    registry.tag("bot:1.0.0", add=("c",))
    good = log_file(home, 7).read_bytes()
    log_file(home, 7).write_bytes(b"garbage")
    with pytest.raises(IntegrityError, match="damaged"):
        reader.refresh()
    assert reader.state.sequence == 6
    log_file(home, 7).write_bytes(good)
    assert reader.refresh() == registry.state


def test_what_is_left_of_a_crash_is_no_problem(home, registry):
    (home_path(home) / "log" / ".00000000000000000005.json.abc").write_bytes(b"half")
    assert verify(home).problems == ()
    assert replace(registry.head) == RegistryService(home).head


def test_a_commit_dated_before_the_last_one_is_found(home, registry):
    early = Change(time=dt.datetime(2020, 1, 1, tzinfo=dt.UTC), principal="eve", idempotency_key="e", events=())
    CommitLog(home).append(registry.head, [early])
    assert "commit 5 is dated before the one before it" in only_problem(home)


def test_a_head_of_nothing_must_be_that_of_nothing(home):
    assert verify(home, head=Head(0, Digest("sha256:" + "0" * 64))).problems == ()
    assert "history was rewritten" in only_problem(home, head=Head(0, Digest("sha256:" + "f" * 64)))
