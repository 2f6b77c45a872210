"""Tokens, roles and the audit trail."""

import datetime as dt

import pytest
from model_files import note_digest

from llamafarm_ray.errors import AccessDeniedError, ConflictError, InputError, NotFoundError, PolicyError
from llamafarm_ray.registry import Change, CommitLog, DeploymentRecorded, Policy, RegistryService
from llamafarm_ray.registry.commands import Grant, RecordDeployment, Register, RemoveDeployment, Revoke, SetPolicy
from llamafarm_ray.registry.events import Refused
from llamafarm_ray.registry.governance.access import Action, Role, allows
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.types import ModelKind


@pytest.fixture
def admin(registry, versions):
    """The registry as its first admin sees it; from here on a token is needed."""
    versions("bot", "1.0.0")
    versions("medical/bot", "1.0.0")
    token = registry.add_principal("root", {"*": Role.ADMIN})
    return RegistryService(registry.home, token=token)


def as_principal(admin, name, grants, **options):
    return RegistryService(admin.home, token=admin.add_principal(name, grants, **options))


def refusals(registry):
    changes = [change for commit in registry.commits() for change in commit.changes]
    return [(change.principal, event) for change in changes for event in change.events if isinstance(event, Refused)]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("action", list(Action))
def test_each_role_may_what_the_ones_before_it_may(role, action):
    may = role.rank >= action.least_role.rank
    assert allows({"*": role}, action, "medical") is may
    assert allows({"medical": role}, action, "medical") is may
    assert not allows({"legal": role}, action, "medical")
    assert not allows({}, action, "")


def test_the_first_principal_must_be_an_admin_who_stays(registry):
    for grants in ({"*": Role.DEPLOYER}, {"medical": Role.ADMIN}, {}):
        with pytest.raises(InputError, match="first principal must be an admin"):
            registry.add_principal("root", grants)
    with pytest.raises(InputError, match="first principal"):
        registry.add_principal("root", {"*": Role.ADMIN}, expires=dt.datetime.now(dt.UTC) + dt.timedelta(days=1))
    assert not registry.refresh().principals


@pytest.mark.parametrize("token", [None, "", "lfr_wrong", "x" * 10_000, "lfr_\udcff", "\0"])
def test_without_a_good_token_nothing_is_done(admin, token):
    stranger = RegistryService(admin.home, principal="root", token=token)
    for use in (lambda: stranger.promote("bot:1.0.0", "production"), lambda: stranger.resolve("bot")):
        with pytest.raises(AccessDeniedError):
            use()
    assert "production" not in admin.refresh().models["bot"].aliases
    assert {principal for principal, _ in refusals(admin)} == {"unknown"}


def test_a_refusal_that_repeats_is_recorded_once_whichever_process_is_refused(admin):
    for number in range(5):
        with pytest.raises(AccessDeniedError):
            RegistryService(admin.home, token=f"lfr_{number}").resolve("bot")
    admin.refresh()
    assert len(refusals(admin)) == 1
    with pytest.raises(AccessDeniedError):
        RegistryService(admin.home, token=f"lfr_{number}").resolve("medical/bot")
    assert len(refusals(admin)) == 2, "another target"


def test_roles_hold_in_their_namespace_only(admin):
    developer = as_principal(admin, "dan", {"medical": Role.DEPLOYER, "": Role.VIEWER})
    developer.promote("medical/bot:1.0.0", "production")
    assert developer.resolve("bot").ref == "bot:1.0.0"
    with pytest.raises(
        AccessDeniedError, match="'dan' may not move alias: that takes the role deployer for models without a namespace"
    ):
        developer.promote("bot:1.0.0", "production")
    assert [(who, event.action, event.target) for who, event in refusals(admin)] == [("dan", "move alias", "bot:1.0.0")]


def test_a_viewer_cannot_register_and_nothing_is_stored(admin, folder):
    viewer = as_principal(admin, "vic", {"*": Role.VIEWER})
    before = set(admin.content.stored())
    with pytest.raises(AccessDeniedError, match="developer"):
        viewer.register(folder, name="bot", kind="adapter")
    assert set(admin.content.stored()) == before


def test_an_expired_token_is_worth_nothing(admin):
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(milliseconds=50)
    guest = as_principal(admin, "guest", {"*": Role.VIEWER}, expires=soon)
    while dt.datetime.now(dt.UTC) <= soon:
        pass
    with pytest.raises(AccessDeniedError, match="expired on"):
        guest.resolve("bot")
    with pytest.raises(InputError, match="in the past"):
        admin.add_principal("late", {"*": Role.VIEWER}, expires=soon)


def test_a_revoked_token_is_worth_nothing_and_the_name_can_be_given_again(admin):
    first = as_principal(admin, "dan", {"*": Role.DEPLOYER})
    with pytest.raises(ConflictError, match="already"):
        admin.add_principal("dan", {"*": Role.VIEWER})
    admin.submit(Revoke("dan"))
    with pytest.raises(AccessDeniedError, match="no longer"):
        first.resolve("bot")
    again = as_principal(admin, "dan", {"*": Role.VIEWER})
    assert again.resolve("bot").ref == "bot:1.0.0"
    with pytest.raises(AccessDeniedError):
        first.resolve("bot")


def test_the_last_admin_cannot_go(admin):
    for command in (Revoke("root"), Grant("root", {"*": Role.VIEWER})):
        with pytest.raises(ConflictError, match="last admin"):
            admin.submit(command)
    other = as_principal(admin, "eva", {"*": Role.ADMIN})
    other.submit(Revoke("root"))
    with pytest.raises(AccessDeniedError):
        admin.resolve("bot")


def test_one_cannot_approve_ones_own_promotion(admin):
    admin.submit(SetPolicy("production", Policy(approvals=1)))
    dan = as_principal(admin, "dan", {"*": Role.DEPLOYER})
    eva = as_principal(admin, "eva", {"*": Role.DEPLOYER})
    dan.approve("bot:1.0.0", "production")
    with pytest.raises(PolicyError, match="another principal must approve, and none did"):
        dan.promote("bot:1.0.0", "production")
    eva.approve("bot:1.0.0", "production")
    dan.promote("bot:1.0.0", "production")
    assert admin.resolve("bot@production").ref == "bot:1.0.0"


def test_no_token_is_kept_anywhere(admin, tmp_path):
    token = admin.add_principal("dan", {"*": Role.VIEWER})
    for path in (tmp_path / "home").rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes()


def test_every_change_says_who(admin):
    admin.promote("bot:1.0.0", "production")
    changes = [change for commit in admin.commits() for change in commit.changes]
    assert [change.principal for change in changes] == ["ann", "ann", "ann", "root"]


def test_names_of_other_namespaces_are_not_given_away(admin):
    viewer = as_principal(admin, "vic", {"": Role.VIEWER})
    with pytest.raises(NotFoundError) as error:
        viewer.resolve("bod")
    assert "Did you mean bot?" in str(error.value)
    assert "medical" not in str(error.value)


def test_an_approval_counts_while_its_giver_may_give_it(admin):
    admin.submit(SetPolicy("production", Policy(approvals=1)))
    eva = as_principal(admin, "eva", {"*": Role.DEPLOYER})
    eva.approve("bot:1.0.0", "production")
    admin.submit(Revoke("eva"))
    with pytest.raises(PolicyError, match="another principal must approve"):
        admin.promote("bot:1.0.0", "production")


def test_a_deployment_needs_the_right_for_what_it_serves(admin):
    medic = as_principal(admin, "mel", {"medical": Role.DEPLOYER})
    facts = {"application": "app", "base_digest": "sha256:" + "1" * 64, "url": "http://x", "ray_address": ""}
    medic.submit(RecordDeployment(DeploymentRecorded(base_model="tiny", adapters=("medical/bot:1.0.0",), **facts)))
    with pytest.raises(AccessDeniedError, match="models without a namespace"):
        medic.submit(RecordDeployment(DeploymentRecorded(base_model="tiny", adapters=("bot:1.0.0",), **facts)))


def test_a_service_that_was_open_before_tokens_were_asked_for_asks_now(registry, versions):
    versions("bot", "1.0.0")
    before = RegistryService(registry.home, principal="eve")
    now = registry.state.time
    registry.add_principal("root", {"*": Role.ADMIN})
    with pytest.raises(AccessDeniedError):
        before.resolve("bot", at=now)


def test_a_stranger_does_not_learn_what_is_stored(admin):
    stranger = RegistryService(admin.home, token="lfr_wrong")  # noqa: S106
    for digest in (note_digest("bot:1.0.0"), note_digest("never stored")):
        with pytest.raises(AccessDeniedError):
            stranger.submit(Register("bot", ModelKind.ADAPTER, digest, 1))
    assert [(event.action, event.target) for _, event in refusals(admin)] == [("register", "bot")]


def test_knocking_all_the_time_does_not_fill_the_log(admin):
    stranger = RegistryService(admin.home, token="lfr_wrong")  # noqa: S106
    for _ in range(20):
        with pytest.raises(AccessDeniedError):
            stranger.resolve("bot")
    assert len(refusals(admin)) == 1


def test_a_commit_dated_ahead_expires_no_token(admin):
    ahead = dt.datetime.now(dt.UTC) + dt.timedelta(days=400)
    guest = as_principal(admin, "guest", {"*": Role.DEVELOPER}, expires=ahead - dt.timedelta(days=300))
    change = Change(time=ahead, principal="root", idempotency_key="ahead", events=())
    CommitLog(admin.home).append(admin.head, [change])
    guest.tag("bot:1.0.0", add=("fine",))
    assert guest.refresh().time < dt.datetime.now(dt.UTC)
    ahead_of_all, followed = verify(admin.home, blobs=False).problems  # nothing of the token's end
    assert "in the future" in ahead_of_all
    assert "dated before the one before it" in followed


def test_who_recorded_a_deployment_may_take_it_off_the_record(admin):
    medic = as_principal(admin, "mel", {"medical": Role.DEPLOYER})
    facts = {"application": "app", "base_digest": "sha256:" + "1" * 64, "url": "http://x", "ray_address": ""}
    theirs = DeploymentRecorded(base_model="tiny", adapters=("medical/bot:1.0.0",), **facts)
    medic.submit(RecordDeployment(theirs))
    medic.submit(RemoveDeployment(theirs))
    assert not admin.refresh().deployments
    ours = DeploymentRecorded(base_model="tiny", adapters=("bot:1.0.0",), **facts)
    admin.submit(RecordDeployment(ours))
    with pytest.raises(AccessDeniedError):
        medic.submit(RemoveDeployment(ours))
    medic.submit(RemoveDeployment(theirs))  # what is not recorded any more: nothing happens
    assert admin.refresh().deployments["app"] == ours


def test_an_approval_ends_with_the_role_that_it_took(admin):
    admin.submit(SetPolicy("production", Policy(approvals=1)))
    eva = as_principal(admin, "eva", {"*": Role.DEPLOYER})
    eva.approve("bot:1.0.0", "production")
    admin.submit(Grant("eva", {"*": Role.VIEWER}))
    with pytest.raises(PolicyError, match="another principal must approve"):
        admin.promote("bot:1.0.0", "production")
