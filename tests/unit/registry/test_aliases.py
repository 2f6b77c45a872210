"""Promotion, rollback and the end of a version's life."""

import datetime as dt

import pytest

from llamafarm_ray.errors import ConflictError, InputError, NotFoundError, PolicyError
from llamafarm_ray.registry import Identity
from llamafarm_ray.registry.commands import MoveAlias, RecordDeployment, SetPolicy
from llamafarm_ray.registry.events import DeploymentRecorded, Refused
from llamafarm_ray.registry.governance.policy import Policy, metric_value
from llamafarm_ray.types import Digest, ModelRef
from llamafarm_ray.workflows.deployments.move_alias import promote
from llamafarm_ray.workflows.governance.policies import set_policy


@pytest.fixture
def bot(versions):
    versions("bot", "1.0.0", "1.1.0", "1.2.0", metrics={"accuracy": 0.9, "bench": {"mmlu": 0.4}}, license="MIT")


def production(registry):
    return registry.resolve("bot@production").registered.version


@pytest.mark.usefixtures("bot")
def test_rollback_goes_back_step_by_step_and_never_forth(registry):
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        registry.promote(f"bot:{number}", "production")
    assert registry.rollback("bot", "production").ref == "bot:1.1.0"
    assert registry.rollback("bot", "production").ref == "bot:1.0.0"
    with pytest.raises(ConflictError, match=r"nothing before 1\.0\.0 that bot@production pointed at"):
        registry.rollback("bot", "production")
    registry.promote("bot:1.2.0", "production")
    assert registry.rollback("bot", "production").ref == "bot:1.0.0"


@pytest.mark.usefixtures("bot")
def test_rollback_to_a_named_version(registry):
    registry.promote("bot:1.2.0", "production")
    assert registry.rollback("bot", "production", version="1.0.0").ref == "bot:1.0.0"
    with pytest.raises(ConflictError, match="already"):
        registry.rollback("bot", "production", version="1.0.0")
    with pytest.raises(NotFoundError, match=r"no version 9\.9\.9"):
        registry.rollback("bot", "production", version="9.9.9")
    with pytest.raises(NotFoundError, match="no alias 'staging'"):
        registry.rollback("bot", "staging")


@pytest.mark.usefixtures("bot")
def test_after_unalias_a_rollback_says_where_the_alias_pointed(registry):
    registry.promote("bot:1.0.0", "production")
    registry.promote("bot:1.1.0", "production")
    registry.unalias("bot", "production")
    again = r"pointed at bot:1\.1\.0 until it was removed; `llamafarm models promote bot:1\.1\.0 --env production`"
    with pytest.raises(NotFoundError, match=again):
        registry.rollback("bot", "production")
    registry.retire("bot:1.1.0")
    with pytest.raises(NotFoundError, match=r"bot:1\.1\.0, which is retired, until it was removed"):
        registry.rollback("bot", "production")
    with pytest.raises(NotFoundError, match="There are none yet"):
        registry.rollback("bot", "staging")


@pytest.mark.usefixtures("bot")
def test_rollback_skips_what_was_retired(registry):
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        registry.promote(f"bot:{number}", "production")
    registry.retire("bot:1.1.0", "leaks")
    assert registry.rollback("bot", "production").ref == "bot:1.0.0"


@pytest.mark.usefixtures("bot")
def test_an_alias_that_points_there_already_is_not_moved(registry):
    registry.promote("bot:1.0.0", "production")
    before = registry.refresh().sequence
    registry.promote("bot:1.0.0", "production")
    assert registry.refresh().sequence == before


@pytest.mark.usefixtures("bot")
def test_what_was_in_production_on_tuesday(registry):
    registry.promote("bot:1.0.0", "production")
    tuesday = registry.state.time
    registry.promote("bot:1.2.0", "production")
    registry.retire("bot:1.0.0")
    assert production(registry) == "1.2.0"
    assert registry.resolve("bot@production", at=tuesday).registered.version == "1.0.0"
    assert registry.resolve("bot:1.0.0", at=tuesday).status == "active"
    with pytest.raises(NotFoundError):
        registry.resolve("bot", at=tuesday - dt.timedelta(days=1))


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ({"metrics": {"accuracy": ">0.95"}}, "accuracy must be >0.95, and is 0.9"),
        ({"metrics": {"bench.mmlu": ">=0.5"}}, r"bench\.mmlu must be >=0\.5, and is 0\.4"),
        ({"metrics": {"f1": ">0"}}, "f1 must be >0, and was not measured"),
        ({"licenses": ["Apache-2.0"]}, "licence must be one of Apache-2.0, and is MIT"),
        ({"signed_by": [Digest.of(b"key")]}, "must be signed with a key of"),
        ({"approvals": 1}, "another principal must approve, and none did"),
    ],
)
@pytest.mark.usefixtures("bot")
def test_a_refused_promotion_says_which_rule_and_which_value(registry, policy, says):
    registry.submit(SetPolicy("production", Policy.model_validate(policy)))
    with pytest.raises(PolicyError, match=says) as refused:
        registry.promote("bot:1.0.0", "production")
    assert refused.value.rules == tuple(policy)
    assert "production" not in registry.refresh().models["bot"].aliases
    registry.promote("bot:1.0.0", "staging")
    recorded = [event for commit in registry.commits() for change in commit.changes for event in change.events]
    assert [event.rule for event in recorded if isinstance(event, Refused)] == list(policy)


@pytest.mark.usefixtures("bot")
def test_a_policy_that_is_fulfilled_lets_through_and_later_metrics_count(registry):
    policy = Policy(metrics={"accuracy": ">0.95", "bench.mmlu": ">0.3"}, licenses=("MIT",))
    registry.submit(SetPolicy("production", policy))
    registry.record_metrics("bot:1.1.0", {"accuracy": 0.97})
    registry.promote("bot:1.1.0", "production")
    assert production(registry) == "1.1.0"


@pytest.mark.usefixtures("bot")
def test_a_rollback_to_what_was_there_passes_a_policy_that_came_later(registry):
    registry.promote("bot:1.0.0", "production")
    registry.promote("bot:1.1.0", "production")
    registry.submit(SetPolicy("production", Policy(metrics={"f1": ">0.5"})))
    assert registry.rollback("bot", "production").ref == "bot:1.0.0"
    with pytest.raises(PolicyError, match="f1"):
        registry.rollback("bot", "production", version="1.2.0")


@pytest.mark.usefixtures("bot")
def test_a_retired_version_is_neither_promoted_nor_pulled_nor_the_latest(registry):
    registry.retire("bot:1.2.0", "leaks a name")
    for use in (lambda: registry.promote("bot:1.2.0", "production"), lambda: registry.pull("bot:1.2.0")):
        with pytest.raises(ConflictError, match="retired"):
            use()
    assert registry.latest("bot").ref == "bot:1.1.0"
    with pytest.raises(ConflictError, match="retired already"):
        registry.retire("bot:1.2.0")


@pytest.mark.usefixtures("bot")
def test_a_version_that_is_used_is_not_retired(registry):
    registry.promote("bot:1.0.0", "production")
    with pytest.raises(ConflictError, match="production points at it"):
        registry.retire("bot:1.0.0")
    deployed = DeploymentRecorded(
        application="app",
        base_model="b",
        base_digest=Digest.of(b"b"),
        url="http://x/v1",
        ray_address="",
        adapters=("bot:1.1.0",),
    )
    registry.submit(RecordDeployment(deployed))
    with pytest.raises(ConflictError, match="deployment at http://x/v1 serves it"):
        registry.retire("bot:1.1.0")
    with pytest.raises(InputError, match="does not say which version"):
        registry.retire("bot")


@pytest.mark.usefixtures("bot")
def test_a_number_is_not_used_again_after_retirement(registry, versions):
    registry.retire("bot:1.2.0")
    with pytest.raises(ConflictError, match="registered already"):
        versions("bot", "1.2.0")
    versions("bot", None)
    assert registry.latest("bot").ref == "bot:1.3.0"


@pytest.mark.usefixtures("bot")
def test_tags_come_and_go(registry):
    assert registry.tag("bot:1.0.0", add=("good", "fast", "good")).tags == ("good", "fast")
    assert registry.tag("bot:1.0.0", remove=("good",)).tags == ("fast",)
    with pytest.raises(NotFoundError, match="no tag 'slow'"):
        registry.tag("bot:1.0.0", remove=("slow",))


@pytest.mark.usefixtures("bot")
def test_deprecation_is_said_and_nothing_else_changes(registry):
    assert registry.deprecate("bot:1.0.0", "use 1.2.0").deprecated == "use 1.2.0"
    registry.promote("bot:1.0.0", "production")


def test_prereleases_lead_to_their_release(registry, versions):
    versions("bot", "2.0.0-rc.1", None, None)
    assert sorted(registry.refresh().models["bot"].versions) == ["2.0.0", "2.0.0-rc.1", "2.1.0"]


@pytest.mark.parametrize(
    ("metrics", "name", "value"),
    [
        ({"a": {"b": 1}}, "a.b", 1.0),
        ({"a.b": 2}, "a.b", 2.0),
        ({"a": {"b.c": 3}}, "a.b.c", 3.0),
        ({"a.b": {"c": 4}}, "a.b.c", 4.0),
        ({"a": True}, "a", None),
        ({"a": "1"}, "a", None),
        ({"a": {"b": 1}}, "a", None),
        ({}, "a.b", None),
    ],
)
def test_metrics_are_found_by_dotted_names(metrics, name, value):
    assert metric_value(metrics, name) == value


@pytest.mark.usefixtures("bot")
def test_the_only_version_can_end_once_no_alias_points_at_it(registry, versions):
    versions("solo", "1.0.0")
    registry.promote("solo:1.0.0", "production")
    with pytest.raises(ConflictError, match="production points at it"):
        registry.retire("solo:1.0.0")
    registry.unalias("solo", "production")
    registry.retire("solo:1.0.0", "learnt a phone number")
    with pytest.raises(NotFoundError, match="no alias 'production'"):
        registry.unalias("solo", "production")


def test_a_base_ends_after_what_is_in_use_on_it(registry, versions):
    versions("tiny", "1.0.0")
    base = registry.resolve("tiny").registered.manifest
    versions("bot", "1.0.0", base_digest=base)
    registry.promote("bot:1.0.0", "production")
    with pytest.raises(ConflictError, match=r"bot:1\.0\.0, which an alias points at, is based on it"):
        registry.retire("tiny:1.0.0")
    registry.unalias("bot", "production")
    registry.retire("tiny:1.0.0")
    deployed = DeploymentRecorded(
        application="app", base_model="tiny", base_digest=base, url="http://x", ray_address=""
    )
    with pytest.raises(ConflictError, match="is retired, so it can't be deployed"):
        registry.submit(RecordDeployment(deployed))


@pytest.mark.usefixtures("bot")
def test_what_was_approved_is_measured_again_and_needs_approval_again(registry):
    registry.submit(SetPolicy("production", Policy(approvals=1)))
    from llamafarm_ray.registry.commands import Approve

    other = Identity("bob")
    registry.submit(Approve(ModelRef.parse("bot:1.0.0"), "production"), identity=other)
    registry.record_metrics("bot:1.0.0", {"accuracy": 0.1})
    with pytest.raises(PolicyError, match="another principal must approve"):
        registry.promote("bot:1.0.0", "production")
    registry.submit(Approve(ModelRef.parse("bot:1.0.0"), "production"), identity=other)
    registry.promote("bot:1.0.0", "production")


@pytest.mark.usefixtures("bot")
def test_a_dotted_result_cannot_hide_the_measured_one(registry):
    with pytest.raises(InputError, match=r"'bench\.mmlu' would hide the result"):
        registry.record_metrics("bot:1.0.0", {"bench.mmlu": 0.99})
    registry.record_metrics("bot:1.0.0", {"bench": {"mmlu": 0.5}})
    assert metric_value(registry.resolve("bot:1.0.0").metrics, "bench.mmlu") == 0.5


@pytest.mark.usefixtures("bot")
@pytest.mark.parametrize(
    ("alias", "why"),
    [
        ("1.9.0", "taken for a version"),
        ("1", "taken for a version"),
        ("v1", "taken for a version"),
        ("V2.0-rc1", "taken for a version"),
        ("Latest", "taken for a version"),
        ("Production", "differs from 'production' by case alone"),
        ("STAGING", "differs from 'staging' by case alone"),
        ("Gold", "differs from 'gold' by case alone"),
    ],
)
def test_an_alias_that_would_be_taken_for_something_else_is_refused(registry, alias, why):
    registry.promote("bot:1.0.0", "staging")
    registry.submit(SetPolicy("gold", Policy(approvals=1)))
    with pytest.raises(InputError, match=why):
        registry.promote("bot:1.1.0", alias)
    with pytest.raises(InputError, match=r"by case alone|for a version"):
        promote(registry, "bot:1.1.0", alias)
    if alias != "STAGING":  # an alias of one model alone
        with pytest.raises(InputError, match=why):
            set_policy(registry, alias, Policy())
    assert set(registry.state.models["bot"].aliases) == {"staging"}


@pytest.mark.usefixtures("bot")
def test_an_alias_of_an_earlier_release_can_be_moved_whatever_its_name(registry):
    registry.submit(MoveAlias(ModelRef.parse("bot:1.0.0"), "v1"))
    assert registry.promote("bot:1.1.0", "v1").ref == "bot:1.1.0"
    assert registry.promote("bot:1.1.0", "v-next").ref == "bot:1.1.0"
