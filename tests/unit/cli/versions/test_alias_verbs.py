"""`llamafarm models promote` and `rollback` where the version is served: loaded everywhere first, then moved."""

import contextlib
import subprocess
import sys
import threading

import pytest
from ray.exceptions import RaySystemError

from llamafarm_ray.errors import DeploymentError, InputError, UserError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import RecordDeployment
from llamafarm_ray.registry.events import DeploymentRecorded
from llamafarm_ray.serving.ray_serve import replicas, state
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.clusters import cluster
from llamafarm_ray.workflows.deployments import deployed, move_alias

PROMOTE, ROLLBACK = ("models", "promote"), ("models", "rollback")


class Replicas:
    """The replicas of a cluster, and where the alias was when each load began."""

    def __init__(self, registry):
        self.registry = registry
        self.connected, self.loads, self.confirmed = [], [], []
        self.refusal = self.unreachable = None
        self.meanwhile = lambda: None
        self.homes = {"llamafarm": registry.home.uri}
        """Of the applications that run."""

    @contextlib.contextmanager
    def connect(self, address):
        self.connected.append(address)
        if self.unreachable:
            raise self.unreachable
        yield

    def load_everywhere(self, application, reference):
        self.loads.append((application, reference, self.production))
        self.meanwhile()
        if self.refusal:
            raise self.refusal
        return ["engine name"]

    @property
    def production(self):
        return self.registry.resolve("bot@production").ref


@pytest.fixture
def served(bot, folders, monkeypatch):
    """``production`` was at ``bot:1.0.0`` and is at ``bot:1.1.0``, whose base is deployed."""
    bot.text(*PROMOTE, "bot:1.0.0")
    bot.text(*PROMOTE, "bot:1.1.0")
    registry = RegistryService(Location(folders / "home"), principal="ann")
    bot.record = lambda application, address: registry.submit(
        RecordDeployment(
            DeploymentRecorded(
                application=application,
                base_model="base",
                base_digest=registry.resolve("base").registered.manifest,
                url="http://127.0.0.1:1/v1",
                ray_address=address,
            )
        )
    )
    bot.record("llamafarm", "10.0.0.1:6379")
    bot.registry, bot.replicas = registry, Replicas(registry)
    monkeypatch.setattr(cluster, "connect", bot.replicas.connect)
    monkeypatch.setattr(state, "home_of", bot.replicas.homes.get)
    monkeypatch.setattr(state, "is_serving", lambda application: application in bot.replicas.homes)
    monkeypatch.setattr(replicas, "load_everywhere", bot.replicas.load_everywhere)
    monkeypatch.setattr(state, "url_of", lambda _: "http://here:8000/v1")
    monkeypatch.setattr(deployed, "_confirm", lambda *args: bot.replicas.confirmed.append(args))
    return bot


def test_a_rollback_loads_everywhere_before_it_moves(served):
    assert served.text(*ROLLBACK, "--name", "bot", "--version", "1.0.0", "--reason", "complaints") == (
        "bot@production is now bot:1.0.0.\n"
    )
    assert served.replicas.connected == ["10.0.0.1:6379"]
    assert served.replicas.loads == [("llamafarm", "bot:1.0.0", "bot:1.1.0")]
    assert served.replicas.confirmed == [("http://here:8000/v1", "bot@production", "bot:1.0.0")]
    newest = served.json("models", "history", "bot", "--alias", "production")[0]
    assert (newest["action"], newest["reason"]) == ("rolled back", "complaints")


def test_a_rollback_without_a_version_loads_what_was_there_before(served):
    assert served.json(*ROLLBACK, "bot")["version"] == "bot:1.0.0"
    assert served.replicas.loads == [("llamafarm", "bot:1.0.0", "bot:1.1.0")]


def test_of_two_who_roll_back_at_once_the_second_goes_no_further_back(served):
    served.replicas.meanwhile = lambda: served.registry.rollback("bot", "production")
    error = served.error(*ROLLBACK, "bot")
    assert (error["code"], error["message"]) == ("conflict", "bot@production points at 1.0.0 already.")
    assert served.replicas.confirmed == []


def test_a_promotion_loads_everywhere_before_it_moves(served):
    told = served.json(*PROMOTE, "bot:1.0.0")
    digest = served.registry.resolve("bot:1.0.0").registered.manifest
    assert told == {"alias": "bot@production", "version": "bot:1.0.0", "digest": digest, "notes": []}
    assert served.replicas.loads == [("llamafarm", "bot:1.0.0", "bot:1.1.0")]


@pytest.mark.parametrize(
    ("verb", "refusal", "status"),
    [
        ((*PROMOTE, "bot:1.0.0"), UserError("rank 32 is above 16.", hint="Train it."), 2),
        ((*ROLLBACK, "bot"), UserError("rank 32 is above 16.", hint="Train it."), 2),
        ((*PROMOTE, "bot:1.0.0"), DeploymentError("late."), 1),
        ((*PROMOTE, "bot:1.0.0"), RaySystemError("Serve's controller died."), 1),
    ],
)
def test_what_a_replica_refuses_leaves_the_alias(served, verb, refusal, status):
    served.replicas.refusal = refusal
    error = served.error(*verb, status=status)
    assert error["message"].startswith("bot@production stays where it is: ")
    assert "`--now` moves it" in error["hint"]
    assert served.replicas.production == "bot:1.1.0"
    assert served.text(*verb, "--now") == "bot@production is now bot:1.0.0.\n"
    assert len(served.replicas.loads) == 1


@pytest.mark.parametrize("trouble", [DeploymentError("late."), RaySystemError("Serve's controller died.")])
def test_a_rollback_moves_though_replicas_are_part_of_the_emergency(served, trouble):
    served.replicas.refusal = trouble
    status, out, said = served.run(*ROLLBACK, "bot")
    assert (status, out) == (0, "bot@production is now bot:1.0.0.\n")
    assert "could not be had to load it: " in said
    assert "first requests may wait" in said


def test_a_rollback_does_not_wait_for_a_replica_that_hangs(served, monkeypatch):
    hangs = threading.Event()
    served.replicas.meanwhile = hangs.wait
    monkeypatch.setattr(move_alias, "_URGENT_S", 0.05)
    told = served.json(*ROLLBACK, "bot")
    hangs.set()
    assert told["version"] == "bot:1.0.0"
    (note,) = told["notes"]
    assert "not within 0.05 s" in note


def test_an_endpoint_that_does_not_follow_is_told_and_no_error(served, monkeypatch):
    def confirm(*_):
        raise DeploymentError("bot@production points at bot:1.0.0, but the endpoint answers with status 401.", hint="?")

    monkeypatch.setattr(deployed, "_confirm", confirm)
    assert "status 401" in served.json(*PROMOTE, "bot:1.0.0")["notes"][0]


def test_another_registrys_application_by_the_same_name_is_left_alone(served):
    served.replicas.homes["llamafarm"] = "file:///somebody/else"
    _, _, said = served.run(*PROMOTE, "bot:1.0.0")
    assert "No replica of llamafarm runs at 10.0.0.1:6379." in said
    assert (served.replicas.production, served.replicas.loads) == ("bot:1.0.0", [])
    assert served.replicas.confirmed == []


def test_the_replicas_of_each_recorded_cluster_load_it(served):
    served.record("second", "10.0.0.2:6379")
    served.replicas.homes["second"] = served.registry.home.uri
    assert served.json(*PROMOTE, "bot:1.0.0")["notes"] == []
    assert served.replicas.connected == ["10.0.0.1:6379", "10.0.0.2:6379"]
    assert [application for application, *_ in served.replicas.loads] == ["llamafarm", "second"]
    assert len(served.replicas.confirmed) == 2


def test_an_alias_moves_though_the_recorded_cluster_does_not_answer(served):
    served.replicas.unreachable = InputError("Nothing answers at the Ray address 10.0.0.1:6379: timed out.")
    status, out, said = served.run(*ROLLBACK, "bot")
    assert (status, out) == (0, "bot@production is now bot:1.0.0.\n")
    assert "Nothing answers at the Ray address 10.0.0.1:6379: timed out. So it was not loaded there first" in said
    assert served.replicas.production == "bot:1.0.0"


def test_a_cluster_that_was_named_must_answer(served):
    served.replicas.unreachable = InputError("Nothing answers at the Ray address b:1: refused.")
    assert "Nothing answers" in served.error(*ROLLBACK, "bot", "--address", "b:1")["message"]
    assert served.replicas.connected == ["b:1"]
    assert served.replicas.production == "bot:1.1.0"


def test_an_alias_moves_though_no_replica_runs(served):
    served.replicas.homes.clear()
    _, _, said = served.run(*ROLLBACK, "bot")
    assert "No replica of llamafarm runs at 10.0.0.1:6379." in said
    assert (served.replicas.production, served.replicas.loads) == ("bot:1.0.0", [])


@pytest.mark.parametrize(
    ("prepare", "status", "message"),
    [
        (
            ("registry", "policy", "set", "production", "--approvals", "1"),
            2,
            "bot:1.0.0 may not become 'production': another principal must approve, and none did.",
        ),
        ((*PROMOTE, "bot:1.0.0", "--now"), 0, "bot@production is now bot:1.0.0."),
        (("models", "retire", "bot:1.0.0"), 2, "bot:1.0.0 is retired, so 'production' can't point at it."),
    ],
    ids=["policy", "there already", "retired"],
)
def test_nothing_is_loaded_for_what_does_not_move(served, prepare, status, message):
    served.text(*prepare)
    got, out, said = served.run(*PROMOTE, "bot:1.0.0")
    assert got == status
    assert message in (said if status else out)
    assert served.replicas.connected == []


def test_what_is_not_served_moves_at_once(served):
    served.text(*PROMOTE, "base:1.0.0")
    assert served.replicas.connected == []


def test_where_nothing_is_deployed_nobody_waits_for_ray(bot):
    script = (
        "import sys; from llamafarm_ray.cli.main import run; status = run(['models', 'promote', 'bot:1.0.0']);"
        " sys.exit(status or 10 * any(name in sys.modules for name in ('ray', 'numpy', 'httpx')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "bot@production is now bot:1.0.0.\n"), done.stderr
