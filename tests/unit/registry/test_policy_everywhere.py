"""An alias's rules hold on every way to a version: bare names, removed aliases, rollouts, and approvals of the past."""

import pytest
from model_files import store_note

from llamafarm_ray.errors import AccessDeniedError, NotFoundError, PolicyError
from llamafarm_ray.registry import Change, Commit, CommitLog, Head, Policy, RegistryService
from llamafarm_ray.registry.commands import (
    PauseRollout,
    PromoteRollout,
    Register,
    ResumeRollout,
    Revoke,
    SetPolicy,
    StartRollout,
    StepRollout,
)
from llamafarm_ray.registry.events import AliasMoved, AliasRemoved, PromotionApproved, RolloutStepped
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.registry.log import FORMAT, GENESIS, commit_name
from llamafarm_ray.registry.rollouts import CanaryPlan, Step
from llamafarm_ray.serving.rollouts.controller import Decision, Move, carry_out
from llamafarm_ray.serving.routing.resolution import resolve, served_models
from llamafarm_ray.types import Digest, ModelKind, ModelRef
from llamafarm_ray.workflows.versions.describe import describe
from llamafarm_ray.workflows.versions.pull import pull

CANARY = CanaryPlan(steps=(Step(percent=5, dwell_s=0), Step(percent=50, dwell_s=0)))
BASE = Digest.of(b"base")
BOT = ("bot", "production")


@pytest.fixture
def bot(registry, versions):
    versions("bot", "1.0.0", "1.1.0", license="MIT")


def rule(registry, **rules):
    registry.submit(SetPolicy("production", Policy(**rules)))


def opened(registry, name, role=Role.DEPLOYER):
    return RegistryService(registry.home, token=registry.add_principal(name, {"*": role}))


@pytest.fixture
def root(registry, bot):
    return RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))


@pytest.mark.usefixtures("bot")
def test_a_bare_name_is_no_way_round_the_rules_of_production(registry):
    assert registry.resolve("bot").ref == "bot:1.1.0"
    rule(registry, approvals=1)
    for use in (
        registry.resolve,
        registry.pull,
        lambda name: pull(registry, name),
        lambda name: describe(registry, name),
    ):
        with pytest.raises(PolicyError, match="'bot' alone means bot@production, which is not set") as refused:
            use("bot")
        assert "bot:1.1.0" in refused.value.hint
    assert registry.pull("bot:1.1.0").is_dir()
    assert registry.latest("bot").ref == "bot:1.1.0"
    with pytest.raises(NotFoundError, match="Did you mean bot"):
        registry.resolve("bod")


@pytest.mark.usefixtures("bot")
def test_a_bare_name_means_production_again_once_a_version_passed_its_rules(registry):
    rule(registry, licenses=("MIT",))
    before = registry.state.time
    registry.promote("bot:1.0.0", "production")
    assert registry.resolve("bot").ref == "bot:1.0.0"
    with pytest.raises(PolicyError):
        registry.resolve("bot", at=before)
    rule(registry)
    registry.unalias(*BOT)
    assert registry.resolve("bot").ref == "bot:1.1.0"


def test_a_copy_under_another_name_passes_no_rules_by_its_bare_name(registry, bot):
    rule(registry, licenses=("MIT",))
    registry.promote("bot:1.0.0", "production")
    registry.submit(Register("copy", ModelKind.ADAPTER, registry.resolve("bot").registered.manifest, 1))
    with pytest.raises(PolicyError):
        registry.resolve("copy")


def test_the_licence_of_equal_files_and_of_the_base_bind_too(registry):
    def register(name, text, **details):
        manifest = store_note(registry.content, text)
        registry.submit(Register(name, ModelKind.ADAPTER, manifest, 1, details=details))
        return manifest

    base = register("tiny", "base", license="GPL-3.0-only")
    register("bot", "adapter", license="MIT", base_model="tiny", base_digest=base)
    register("theirs", "other", license="GPL-3.0-only")
    register("ours", "other", license="MIT")
    register("free", "third", license="MIT", base_digest=register("open", "open base", license="apache-2.0 AND MIT"))
    register("copy", "third")
    rule(registry, licenses=("MIT", "Apache-2.0"))
    with pytest.raises(PolicyError, match=r"tiny:1\.0\.0, its base, must have one of .* and has GPL-3\.0-only"):
        registry.promote("bot:1.0.0", "production")
    with pytest.raises(PolicyError, match=r"theirs:1\.0\.0, which has the same files, must have one of"):
        registry.promote("ours:1.0.0", "production")
    registry.promote("free:1.0.0", "production")
    assert verify(registry.home).problems == ()


def test_requests_by_a_bare_name_get_no_version_that_passed_no_rules(registry):
    content = store_note(registry.content, "adapter")
    facts = {"base_model": "tiny", "base_digest": BASE}
    registry.submit(Register("bot", ModelKind.ADAPTER, content, 1, details=facts))
    served = {"base_name": "tiny", "base_digest": BASE}
    assert resolve("bot", registry.refresh(), **served).ref == "bot:1.0.0"
    rule(registry, approvals=1)
    state = registry.refresh()
    with pytest.raises(PolicyError, match="production"):
        resolve("bot", state, **served)
    assert served_models(state, **served) == ["tiny", "bot:1.0.0"]
    assert resolve("bot:1.0.0", state, **served).ref == "bot:1.0.0"
    assert resolve("tiny", state, **served).ref == "tiny"


def test_an_alias_with_rules_is_removed_by_whoever_may_set_them_and_by_no_deployer(root):
    root.promote("bot:1.0.0", "production")
    root.promote("bot:1.0.0", "staging")
    rule(root, licenses=("MIT",))
    dan = opened(root, "dan")
    with pytest.raises(AccessDeniedError, match="'dan' may not remove bot@production, which has rules"):
        dan.unalias(*BOT)
    assert dan.resolve("bot@production").ref == "bot:1.0.0"
    dan.unalias("bot", "staging")
    root.unalias(*BOT)
    with pytest.raises(PolicyError):
        dan.resolve("bot")
    assert verify(root.home).problems == ()


@pytest.mark.usefixtures("bot")
@pytest.mark.parametrize("command", [StepRollout, ResumeRollout, PromoteRollout])
def test_each_step_of_a_rollout_is_checked_against_the_rules_of_that_moment(registry, command):
    registry.promote("bot:1.0.0", "production")
    registry.submit(StartRollout(ModelRef.parse("bot:1.1.0"), "production", CANARY))
    if command is ResumeRollout:
        registry.submit(PauseRollout(*BOT))
    rule(registry, approvals=1)
    with pytest.raises(PolicyError, match=r"bot:1\.1\.0 may not become 'production': another principal must approve"):
        registry.submit(command(*BOT))
    assert registry.refresh().rollout(*BOT).step == 0
    rule(registry, licenses=("MIT",))
    registry.submit(command(*BOT))
    assert verify(registry.home).problems == ()


@pytest.mark.usefixtures("bot")
def test_a_rollout_whose_candidate_does_not_pass_any_more_waits_for_somebody(registry):
    registry.promote("bot:1.0.0", "production")
    registry.submit(StartRollout(ModelRef.parse("bot:1.1.0"), "production", CANARY))
    rule(registry, approvals=1)
    carry_out(registry, registry.refresh().rollout(*BOT), Decision(Move.STEP, "all was well"))
    rollout = registry.refresh().rollout(*BOT)
    assert (rollout.status, rollout.step) == ("paused", 0)
    assert "another principal must approve" in rollout.changes[-1].reason


def test_an_approval_from_before_access_control_does_not_count(registry, bot):
    RegistryService(registry.home, principal="bob").approve("bot:1.0.0", "production")
    rule(registry, approvals=1)
    root = RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))
    bob = opened(root, "bob")
    with pytest.raises(PolicyError, match="another principal must approve, and none did"):
        root.promote("bot:1.0.0", "production")
    bob.approve("bot:1.0.0", "production")
    root.promote("bot:1.0.0", "production")


def test_an_approval_is_not_inherited_by_the_next_holder_of_a_name(root):
    rule(root, approvals=1)
    opened(root, "bob").approve("bot:1.0.0", "production")
    assert describe(root, "bot:1.0.0").approvals == {"production": ["bob"]}
    root.submit(Revoke("bob"))
    again = opened(root, "bob")
    assert describe(root, "bot:1.0.0").approvals == {}
    with pytest.raises(PolicyError, match="and none did"):
        root.promote("bot:1.0.0", "production")
    again.approve("bot:1.0.0", "production")
    root.promote("bot:1.0.0", "production")
    assert verify(root.home).problems == ()


@pytest.fixture
def past(root):
    """A log with what an earlier release committed, each against a rule that it did not have."""
    root.promote("bot:1.0.0", "production")
    root.submit(StartRollout(ModelRef.parse("bot:1.1.0"), "production", CANARY))
    dan, _ = opened(root, "dan"), opened(root, "bob")
    rule(root, approvals=1)
    dan.refresh()
    step = RolloutStepped(model="bot", alias="production", number=1, step=1)
    approval = PromotionApproved(model="bot", version="1.1.0", alias="production")
    removal = AliasRemoved(model="bot", alias="production")
    move = AliasMoved(model="bot", alias="production", version="1.1.0")
    return root, [("dan", step), ("dan", removal), ("bob", approval), ("root", move)]


def write(root, done, format_version):
    """Commit as a release does that writes a format."""
    for principal, event in done:
        root.refresh()
        if isinstance(event, AliasMoved):  # bob goes, and another bob comes
            root.submit(Revoke("bob"))
            root.add_principal("bob", {"*": Role.DEPLOYER})
        change = Change(time=root.state.time, principal=principal, idempotency_key=str(event), events=(event,))
        commit = Commit(
            format_version=format_version,
            sequence=root.head.sequence + 1,
            previous=root.head.digest,
            time=change.time,
            changes=(change,),
        )
        root.home.create(commit_name(commit.sequence), commit.to_bytes())


def test_what_breaks_these_rules_is_forged(past):
    root, done = past
    write(root, done, FORMAT)
    assert [problem.partition(": ")[2] for problem in verify(root.home, blobs=False).problems] == [
        "bot:1.1.0 may not become 'production': another principal must approve, and none did.",
        "'dan' may not remove bot@production, which has rules: that takes the role admin for every namespace.",
        "bot:1.1.0 may not become 'production': another principal must approve, and none did.",
    ]


def test_what_an_earlier_release_committed_by_its_own_rules_is_read_and_is_not_called_forged(past):
    root, done = past
    write(root, done, 2)
    rewrite_all(root, 1)
    assert verify(root.home, blobs=False).problems == ()
    reopened = RegistryService(root.home, token=root._identity.token)
    assert reopened.resolve("bot@production").ref == "bot:1.1.0"
    reopened.tag("bot:1.0.0", add=("new",))
    assert verify(root.home, blobs=False).problems == ()


def test_a_commit_in_the_format_of_an_earlier_release_after_one_of_this_is_forged(past):
    root, done = past
    write(root, done[:1], 1)
    first, second = verify(root.home, blobs=False).problems
    assert "has the format of an older release than one before it" in first
    assert "another principal must approve" in second


def rewrite_all(root, format_version):
    """Write the whole log again, as a release that writes another format would have."""
    head = GENESIS
    for commit, _ in list(CommitLog(root.home).read_after(GENESIS)):
        written = commit.model_copy(update={"format_version": format_version, "previous": head.digest})
        root.home.write(commit_name(commit.sequence), written.to_bytes())
        head = Head(commit.sequence, Digest.of(written.to_bytes()))
