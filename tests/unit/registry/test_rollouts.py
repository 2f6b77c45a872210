"""A rollout is registry state: one at a time for an alias, every change of it recorded, no way out of order."""

import datetime as dt

import pytest
from pydantic import ValidationError

from llamafarm_ray.errors import AccessDeniedError, ConflictError, NotFoundError, PolicyError
from llamafarm_ray.registry import Guards, Policy, RegistryService, RolloutStatus
from llamafarm_ray.registry.commands import (
    PauseRollout,
    PromoteRollout,
    Purge,
    ResumeRollout,
    SetPolicy,
    StartRollout,
    StepRollout,
    StopRollout,
)
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.registry.rollouts import AbPlan, BlueGreenPlan, CanaryPlan, ShadowPlan, Step
from llamafarm_ray.types import Digest, ModelRef, Version

BOT = ("bot", "production")
CANARY = CanaryPlan(steps=(Step(percent=5, dwell_s=60), Step(percent=25, dwell_s=60), Step(percent=50, dwell_s=60)))


def start(version="1.1.0", alias="production", plan=CANARY, model="bot"):
    return StartRollout(ModelRef(model, version=Version.parse(version)), alias, plan)


@pytest.fixture
def bot(registry, versions):
    """Three versions; ``production`` points at the first."""
    versions("bot", "1.0.0", "1.1.0", "1.2.0", metrics={"accuracy": 0.8})
    registry.promote("bot:1.0.0", "production")
    yield registry
    assert verify(registry.home, blobs=False).problems == ()  # whatever a test did, no commit is unlawful


def rollout(registry):
    return registry.refresh().rollout(*BOT)


def pointed_at(registry):
    return registry.resolve("bot@production").registered.version


def test_a_started_rollout_says_who_started_what_when_and_why(bot):
    bot.submit(start(), reason="faster")
    found = rollout(bot)
    assert (found.id, found.baseline, found.candidate) == ("bot@production#1", "1.0.0", "1.1.0")
    assert (found.status, found.step, found.percent) == (RolloutStatus.RUNNING, 0, 5)
    (change,) = found.changes
    assert (change.principal, change.reason, change.time) == ("ann", "faster", found.step_since)
    assert pointed_at(bot) == "1.0.0"


def test_a_canary_goes_step_by_step_and_a_promotion_is_the_aliass_move(bot):
    bot.submit(start())
    for percent in (25, 50):
        bot.submit(StepRollout(*BOT))
        assert rollout(bot).percent == percent
        assert rollout(bot).step_since == rollout(bot).changes[-1].time
    with pytest.raises(ConflictError, match="has 3 steps, and all were taken"):
        bot.submit(StepRollout(*BOT))
    outcome = bot.submit(PromoteRollout(*BOT), reason="good")
    assert [event.type for event in outcome.events] == ["alias_moved"]
    assert (rollout(bot).status, rollout(bot).percent) == (RolloutStatus.PROMOTED, 0)
    assert rollout(bot).changes[-1].reason == "good"
    assert pointed_at(bot) == "1.1.0"
    assert bot.rollback(*BOT).ref == "bot:1.0.0"  # an ordinary move, so what was there before is known


@pytest.mark.parametrize(("is_rollback", "status"), [(True, "rolled_back"), (False, "aborted")])
def test_a_stopped_rollout_leaves_the_alias_at_the_baseline(bot, is_rollback, status):
    bot.submit(start())
    bot.submit(StopRollout(*BOT, is_rollback=is_rollback), reason="errors")
    assert (rollout(bot).status, rollout(bot).percent, pointed_at(bot)) == (status, 0, "1.0.0")


def test_a_pause_keeps_the_split_and_its_time_does_not_count(bot):
    bot.submit(start())
    since = rollout(bot).step_since
    bot.submit(PauseRollout(*BOT))
    assert (rollout(bot).status, rollout(bot).percent) == (RolloutStatus.PAUSED, 5)
    bot.submit(ResumeRollout(*BOT))
    paused, resumed = rollout(bot).changes[1:]
    assert rollout(bot).step_since - since == resumed.time - paused.time > dt.timedelta()


@pytest.mark.parametrize(
    ("before", "command", "says"),
    [
        ([], StepRollout(*BOT), "never had a rollout"),
        ([], PromoteRollout(*BOT), "never had a rollout"),
        ([start()], start("1.2.0"), r"1\.1\.0 is being rolled out to bot@production already.*rollout abort bot"),
        ([start()], StepRollout(*BOT, step=2), "at step 1, which step 3 does not follow"),
        ([start()], ResumeRollout(*BOT), "is not paused: it is running"),
        ([start()], PauseRollout(*BOT, number=2), "has no rollout 2"),
        ([start(), PauseRollout(*BOT)], PauseRollout(*BOT), "is paused already"),
        ([start(), PauseRollout(*BOT)], StepRollout(*BOT), "is paused.*Resume it"),
        *(
            ([start(), StopRollout(*BOT)], command, "is over: it was aborted")
            for command in (kind(*BOT) for kind in (StepRollout, PauseRollout, ResumeRollout, StopRollout))
        ),
        ([start(), StopRollout(*BOT, is_rollback=True)], PromoteRollout(*BOT), "is over: it was rolled back"),
        ([start(), PromoteRollout(*BOT)], StopRollout(*BOT), "is over: it was promoted"),
        ([start(), StopRollout(*BOT), start()], StepRollout(*BOT, number=1), "#1 is over"),
        ([], start("1.0.0"), r"points at bot:1\.0\.0 already"),
        ([], start("9.0.0"), r"no version 9\.0\.0"),
        ([], start(alias="staging"), "no alias 'staging'"),
        ([], start(model="bott"), "Did you mean bot"),
    ],
)
def test_what_is_out_of_order_is_refused_and_changes_nothing(bot, before, command, says):
    for done in before:
        bot.submit(done)
    state = bot.refresh()
    with pytest.raises((ConflictError, NotFoundError)) as refused:
        bot.submit(command)
    assert refused.match("(?s)" + says)
    assert bot.refresh() == state


@pytest.mark.parametrize(("version", "status"), [("1.1.0", "promoted"), ("1.2.0", "aborted")])
def test_an_alias_that_is_moved_by_hand_ends_its_rollout(bot, version, status):
    bot.submit(start())
    bot.promote(f"bot:{version}", "production", reason="by hand")
    assert (rollout(bot).status, pointed_at(bot)) == (status, version)
    assert rollout(bot).changes[-1].reason == "by hand"
    bot.submit(start("1.2.0" if version == "1.1.0" else "1.1.0"))
    assert rollout(bot).id == "bot@production#2"


def test_an_alias_that_is_removed_ends_its_rollout(bot):
    bot.submit(start())
    bot.unalias(*BOT)
    assert rollout(bot).status is RolloutStatus.ABORTED


def test_a_rollback_during_a_rollout_must_say_where_to(bot):
    bot.promote("bot:1.2.0", "production")
    bot.submit(start())
    with pytest.raises(ConflictError, match=r"points at 1\.2\.0 still.*rollout abort bot --env production"):
        bot.rollback(*BOT)
    assert bot.rollback(*BOT, version="1.0.0").ref == "bot:1.0.0"
    assert rollout(bot).status is RolloutStatus.ABORTED


def test_a_candidate_is_not_retired_while_users_get_its_answers(bot):
    bot.submit(start())
    with pytest.raises(ConflictError, match=r"is being rolled out to bot@production.*rollout abort"):
        bot.retire("bot:1.1.0")
    bot.submit(StopRollout(*BOT))
    bot.retire("bot:1.1.0")
    bot.submit(Purge(ModelRef("bot", version=Version(1, 1, 0))))
    with pytest.raises(ConflictError, match="is retired, so it can't be rolled out"):
        bot.submit(start())
    assert rollout(bot).candidate == "1.1.0"  # the history stays


def test_a_base_is_not_retired_under_a_candidate(bot, versions):
    from llamafarm_ray.types import ModelKind

    versions("base", "1.0.0")
    base = Digest(bot.resolve("base").registered.manifest)
    versions("tuned", "1.0.0", "1.1.0", base_digest=base)
    assert bot.resolve("tuned").registered.kind is ModelKind.ADAPTER
    bot.promote("tuned:1.0.0", "staging")
    bot.submit(start(alias="staging", model="tuned"))
    bot.promote("base:1.0.0", "x")
    bot.unalias("base", "x")
    with pytest.raises(ConflictError, match="is based on it"):
        bot.retire("base:1.0.0")


def test_a_candidate_on_another_base_can_not_take_the_requests(bot, versions):
    versions("bot", "2.0.0", base_digest=Digest.of(b"other"), base_model="other")
    with pytest.raises(ConflictError, match=r"bot:2\.0\.0 \(adapter on other\) can't take requests from bot:1\.0\.0"):
        bot.submit(start("2.0.0"))


def test_users_get_nothing_that_the_aliass_policy_forbids(bot):
    bot.submit(SetPolicy("production", Policy(licenses=("MIT",))))
    with pytest.raises(PolicyError, match=r"bot:1\.1\.0 may not become 'production': its licence"):
        bot.submit(start())
    bot.submit(SetPolicy("production", Policy()))
    bot.submit(start())
    bot.submit(SetPolicy("production", Policy(approvals=1)))
    with pytest.raises(PolicyError, match="another principal must approve"):
        bot.submit(PromoteRollout(*BOT))
    assert rollout(bot).status is RolloutStatus.RUNNING


@pytest.mark.parametrize(
    ("metrics", "says"), [({"accuracy": ">0.9"}, "must be >0.9, and is 0.8"), ({"f1": ">0"}, "not measured")]
)
def test_a_candidate_without_the_results_that_its_guards_ask_for_is_not_started(bot, metrics, says):
    plan = CANARY.model_copy(update={"guards": Guards.model_validate({"metrics": metrics})})
    with pytest.raises(PolicyError, match=says):
        bot.submit(start(plan=plan))


def test_a_guard_compares_a_result_with_that_of_the_version_in_production(bot):
    metrics = {"accuracy": "no worse than production by more than 0.02", "f1": "no worse than production"}
    plan = CANARY.model_copy(update={"guards": Guards.model_validate({"metrics": metrics})})
    for ref, f1 in (("bot:1.0.0", 0.5), ("bot:1.1.0", 0.4)):
        bot.record_metrics(ref, {"accuracy": 0.8, "f1": f1}, reason="evaluated")
    with pytest.raises(PolicyError, match=r"f1 must be no worse .* is 0\.4 where bot:1\.0\.0 has 0\.5"):
        bot.submit(start(plan=plan))
    bot.record_metrics("bot:1.1.0", {"f1": 0.5}, reason="evaluated")
    bot.submit(start(plan=plan))
    assert rollout(bot).plan == plan


def test_a_signature_that_the_policy_asks_for_is_asked_of_the_candidate_too(bot):
    from llamafarm_ray.registry.signing import check_policies

    bot.submit(start())
    key = Digest.of(b"key")
    bot.submit(SetPolicy("production", Policy(signed_by=(key,))))
    with pytest.raises(PolicyError, match=r"bot:1\.1\.0 is not signed"):
        check_policies(bot.state, bot.content, bot.resolve("bot:1.1.0"), None)


def test_it_takes_a_deployer(bot):
    root = RegistryService(bot.home, token=bot.add_principal("root", {"*": Role.ADMIN}))
    dan = RegistryService(bot.home, token=root.add_principal("dan", {"*": Role.DEVELOPER}))
    with pytest.raises(AccessDeniedError, match="may not roll out: that takes the role deployer"):
        dan.submit(start())
    eva = RegistryService(bot.home, token=root.add_principal("eva", {"*": Role.DEPLOYER}))
    eva.submit(start())
    assert rollout(root).changes[0].principal == "eva"


def test_last_weeks_rollout_is_a_value_like_any_other(bot):
    bot.submit(start())
    then = bot.state.time
    bot.submit(StepRollout(*BOT))
    bot.submit(StopRollout(*BOT))
    assert bot.state_at(then).rollout(*BOT).percent == 5
    assert rollout(bot).changes[:1] == bot.state_at(then).rollout(*BOT).changes
    assert rollout(bot).id == bot.state.rollout(*BOT, number=1).id


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (lambda: CanaryPlan(steps=()), "at least 1"),
        (lambda: CanaryPlan(steps=(Step(percent=50, dwell_s=0), Step(percent=5, dwell_s=0))), "must rise"),
        (lambda: Step(percent=0, dwell_s=0), "greater than 0"),
        (lambda: Step(percent=101, dwell_s=0), "less than or equal to 100"),
        (lambda: BlueGreenPlan(steps=(Step(percent=50, dwell_s=0),)), "one step, of 100"),
        (lambda: BlueGreenPlan(steps=(Step(percent=100, dwell_s=0),)), "set guards.max_error_rate"),
        (
            lambda: BlueGreenPlan(
                steps=(Step(percent=100, dwell_s=0),), guards=Guards(max_error_rate=0.1, max_latency_ratio=2)
            ),
            "leave guards with a ratio out",
        ),
        (lambda: AbPlan(max_requests=150), "leaves less than min_requests"),
        (lambda: ShadowPlan(percent=float("nan")), "finite"),
        (lambda: Guards(confidence=1), "less than 1"),
    ],
)
def test_a_plan_that_means_nothing_is_refused(plan, says):
    with pytest.raises(ValidationError, match=says):
        plan()
