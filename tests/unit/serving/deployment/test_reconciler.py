"""What an application that `serve deploy` started tells the registry, by the replicas that it starts."""

import asyncio
import contextlib
import json
import logging
from types import SimpleNamespace

import pytest
from http_server import QuietHandler, http_server
from model_files import note_digest, store_note
from patience import patience

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ClusterError, StorageError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import PromoteRollout, Register, StopRollout
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.serving.deployment.reconciler import DesiredDeployment, Reconciler, is_same_cluster, withdraw
from llamafarm_ray.serving.ray_serve import state
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind

PLACE = ("http://10.0.0.1:8000/llama/v1", "10.0.0.1:6379")
CANARY = parse_config({"deployment": {"strategy": "canary"}}).deployment.rollout


@pytest.fixture
def registry(tmp_path):
    made = RegistryService(Location(tmp_path / "home"), cache=tmp_path / "cache")
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        made.submit(Register("bot", ModelKind.ADAPTER, store_note(made.content, number), 1, number))
    return made


class Replica:
    """One replica's announcer, without a cluster."""

    def __init__(self, registry, *adapters, rollout=CANARY, place=PLACE):
        self.registry, self.place, self.started, self.connected = registry, place, 0, 0
        told = DesiredDeployment("llama", "base", str(note_digest("base")), adapters, rollout)
        self.announcer = Reconciler(
            told,
            state=registry.refresh,
            connect=self.connect,
            place=self.where,
            start_controller=self.start,
        )

    def connect(self):
        self.connected += 1
        return self.registry

    def where(self):
        if self.place is None:
            raise ClusterError("Serve has no route to 'llama'.")
        return self.place

    def start(self):
        self.started += 1

    def look(self, times=1):
        for _ in range(times):
            self.announcer.look()
        return self


def under_way(registry):
    rollout = registry.refresh().rollout_under_way("bot", "production")
    return rollout.candidate if rollout else None


def test_an_application_puts_itself_on_record_once(registry):
    replica = Replica(registry, "bot:1.0.0", rollout=None).look()
    recorded = registry.refresh().deployments["llama"]
    assert (recorded.url, recorded.ray_address) == PLACE
    assert (recorded.base_model, recorded.adapters) == ("base", ("bot:1.0.0",))
    commits = registry.state.sequence
    replica.look(9)
    assert (replica.started, replica.connected) == (10, 1)
    assert Replica(registry, "bot:1.0.0", rollout=None).look().connected == 0  # another replica
    assert registry.refresh().sequence == commits
    Replica(registry, "bot:1.1.0", rollout=None).look()  # deployed anew
    assert registry.refresh().deployments["llama"].adapters == ("bot:1.1.0",)
    replica.look(9)  # the old one lives on for a moment
    assert registry.refresh().deployments["llama"].adapters == ("bot:1.1.0",)
    assert "production" not in registry.state.models["bot"].aliases  # without a strategy no alias moves


def test_a_record_that_is_lost_is_made_again_but_not_at_once(registry):
    replica = Replica(registry, rollout=None).look()
    withdraw(registry, "llama", PLACE[1])
    assert "llama" not in registry.refresh().deployments
    replica.look()
    assert "llama" not in registry.refresh().deployments  # it may be stopping
    replica.place = None
    replica.look(5)
    assert "llama" not in registry.refresh().deployments  # it is
    replica.place = PLACE
    replica.look()
    assert registry.refresh().deployments["llama"].url == PLACE[0]


class Serving(QuietHandler):
    """Another cluster's endpoint: what it says of its models."""

    status, said = 200, {"data": [{"id": "base"}]}

    def do_GET(self):
        self.reply(self.status, json.dumps(self.said).encode())


@contextlib.contextmanager
def elsewhere(handler=Serving):
    with http_server(handler) as url:
        yield f"{url}/v1", "10.0.0.2:6379"


class Locked(Serving):
    status, said = 401, {"error": {"code": "unauthenticated"}}


@pytest.mark.parametrize("handler", [Serving, Locked])
def test_a_second_cluster_takes_the_record_only_when_the_first_answers_no_more(registry, caplog, handler):
    with elsewhere(handler) as place:
        Replica(registry, rollout=None, place=place).look()
        second = Replica(registry, rollout=None).look(3)
        assert registry.refresh().deployments["llama"].url == place[0]
        assert caplog.text.count(f"llama of this home is served at {place[0]} already") == 1
    second.look()
    assert registry.refresh().deployments["llama"].url == PLACE[0]


def test_something_else_at_a_recorded_url_keeps_nobody_off_the_record(registry):
    class Other(Serving):
        said = Locked.said | {"data": [{"id": "another"}]}

    with elsewhere(Other) as place:
        Replica(registry, rollout=None, place=place).look()
        Replica(registry, rollout=None).look()
    assert registry.refresh().deployments["llama"].url == PLACE[0]


def test_a_cluster_that_was_started_anew_takes_its_own_record(registry):
    with elsewhere() as (url, _):
        Replica(registry, rollout=None, place=(url, "10.0.0.1:1")).look()
        Replica(registry, rollout=None, place=(url, "10.0.0.1:2")).look()
    assert registry.refresh().deployments["llama"].ray_address == "10.0.0.1:2"


def test_each_version_gets_one_rollout(registry):
    Replica(registry, "bot:1.0.0").look()
    assert registry.resolve("bot@production").ref == "bot:1.0.0"
    Replica(registry, "bot:1.1.0").look()
    assert under_way(registry) == "1.1.0"
    Replica(registry, "bot:1.1.0").look()  # a second replica, while it is under way
    assert len(registry.refresh().rollouts["bot@production"]) == 1
    registry.submit(StopRollout("bot", "production", is_rollback=True))
    Replica(registry, "bot:1.1.0").look(3)  # a replica that starts after the rollback
    assert under_way(registry) is None
    Replica(registry, "bot:1.2.0").look()
    registry.submit(PromoteRollout("bot", "production"))
    registry.rollback("bot", "production")
    Replica(registry, "bot:1.2.0").look()  # and after somebody took it back by hand
    Replica(registry, "bot:1.0.0").look()
    assert under_way(registry) is None
    assert registry.resolve("bot@production").ref == "bot:1.0.0"
    registry.unalias("bot", "production")
    Replica(registry, "bot:1.1.0").look()  # or took the alias away
    assert "production" not in registry.refresh().models["bot"].aliases


def test_an_alias_that_was_taken_away_stays_away(registry):
    """There never was a rollout to it: the first version became production at once."""
    Replica(registry, "bot:1.0.0").look()
    registry.unalias("bot", "production")
    Replica(registry, "bot:1.0.0").look()
    Replica(registry, "bot:1.1.0").look()
    assert "production" not in registry.refresh().models["bot"].aliases
    assert [move.version for move in registry.state.models["bot"].removed["production"]] == ["1.0.0"]
    registry.promote("bot:1.2.0", "production")  # somebody wants one again
    Replica(registry, "bot:1.0.0").look()  # it had its chance before
    assert under_way(registry) is None
    Replica(registry, "bot:1.1.0").look()
    assert under_way(registry) == "1.1.0"
    registry.unalias("bot", "production")
    assert [move.version for move in registry.state.models["bot"].removed["production"]] == ["1.0.0", "1.2.0"]


def test_a_rollout_that_must_wait_begins_when_it_can_and_holds_up_no_other(registry, caplog):
    Replica(registry, "bot:1.0.0").look()
    registry.submit(Register("cat", ModelKind.ADAPTER, store_note(registry.content, "cat"), 1, "1.0.0"))
    Replica(registry, "bot:1.1.0").look()
    replica = Replica(registry, "bot:1.2.0", "cat:1.0.0")
    with caplog.at_level(logging.WARNING):
        replica.look(5)
    assert len([one for one in caplog.records if "bot:1.1.0 is being rolled out" in one.getMessage()]) == 1
    assert registry.resolve("cat@production").ref == "cat:1.0.0"
    assert under_way(registry) == "1.1.0"
    registry.submit(StopRollout("bot", "production"))
    replica.look()
    assert under_way(registry) == "1.2.0"


def test_what_the_registry_refuses_is_said_once_and_left_to_people(registry, caplog):
    registry.promote("bot:1.0.0", "production")
    registry.add_principal("root", {"*": Role.ADMIN})
    replica = Replica(RegistryService(registry.home), "bot:1.1.0")  # without a token
    with caplog.at_level(logging.WARNING):
        replica.look(5)
    assert len([one for one in caplog.records if "The deployment is not on record" in one.getMessage()]) == 1
    assert len([one for one in caplog.records if "bot:1.1.0 is not rolled out" in one.getMessage()]) == 1
    assert replica.connected == 2
    assert not registry.refresh().deployments


def test_no_mistake_of_ours_ends_the_loop(registry, caplog):
    replica = Replica(registry, "bot:1.0.0")
    replica.announcer._start_controller = lambda: 1 / 0

    async def looked():
        loop = asyncio.create_task(replica.announcer.run(every_s=0.001))
        while caplog.text.count("ZeroDivisionError") < 2 or not registry.refresh().deployments:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        loop.cancel()

    asyncio.run(asyncio.wait_for(looked(), timeout=patience(20)))


def test_a_cluster_is_known_by_different_names():
    assert is_same_cluster("127.0.0.1:6379", "localhost:6379")
    assert not is_same_cluster("127.0.0.1:6379", "127.0.0.1:6380")
    assert not is_same_cluster("10.0.0.1:6379", "10.0.0.2:6379")
    assert is_same_cluster("no such host.invalid:1", "no such host.invalid:1")


def test_an_application_that_is_gone_goes_off_the_record(registry, caplog):
    Replica(registry, rollout=None).look()
    withdraw(registry, "llama", "10.0.0.2:6379")
    withdraw(registry, "other", PLACE[1])
    assert "llama" in registry.refresh().deployments
    root = RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))
    with caplog.at_level(logging.WARNING):
        withdraw(RegistryService(registry.home), "llama", PLACE[1])  # without a token
    assert "stays on record" in caplog.text
    assert "llama" in root.refresh().deployments
    withdraw(root, "llama", PLACE[1])
    assert "llama" not in root.refresh().deployments


@pytest.mark.parametrize(
    ("listens", "root"),
    [(None, None), (("127.0.0.1", 8000), "http://127.0.0.1:8000"), (("0.0.0.0", 80), "http://10.0.0.1:80")],  # noqa: S104
)
def test_an_application_is_found_at_the_head_node_where_serve_listens_everywhere(monkeypatch, listens, root):
    monkeypatch.setattr(state, "http_address", lambda: listens)
    monkeypatch.setattr(state.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))
    assert state.http_root() == root
    monkeypatch.setattr(state, "_application", {"llama": {"route_prefix": "/llama", "status": "RUNNING"}}.get)
    assert state.url_of("llama") == (root and f"{root}/llama/v1")
    assert state.url_of("other") is None


def test_a_replica_that_lives_on_leaves_the_new_applications_controller_alone(registry):
    old = Replica(registry, rollout=None).look()
    told = DesiredDeployment("llama", "other", str(note_digest("other")), (), None)
    new = Reconciler(
        told, state=registry.refresh, connect=lambda: registry, place=lambda: PLACE, start_controller=lambda: None
    )
    new.look()
    old.look(5)
    assert old.started == 1
    assert registry.refresh().deployments["llama"].base_model == "other"


def test_an_application_that_is_being_deleted_gets_no_new_controller(registry):
    replica = Replica(registry, "bot:1.0.0").look()
    assert replica.started == 1
    replica.place = None
    replica.look(5)
    assert replica.started == 1


def test_a_rollout_waits_for_a_registry_that_is_down(registry, caplog):
    registry.promote("bot:1.0.0", "production")
    replica = Replica(registry, "bot:1.1.0").look(0)
    submit, registry.submit = registry.submit, lambda *_, **__: raised(StorageError("the bucket does not answer"))
    with caplog.at_level(logging.WARNING):
        replica.look(3)
    assert caplog.text.count("bot:1.1.0 is not rolled out: the bucket") == 1
    registry.submit = submit
    replica.look()
    assert under_way(registry) == "1.1.0"
    assert registry.refresh().deployments["llama"].adapters == ("bot:1.1.0",)


def raised(error):
    raise error
