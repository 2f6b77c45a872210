"""`llamafarm models status`: what runs where, and how the last minute was."""

import contextlib

import pytest

from llamafarm_ray.cli import terminal
from llamafarm_ray.cli.deployments import status as verb
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import RecordDeployment
from llamafarm_ray.registry.events import DeploymentRecorded
from llamafarm_ray.serving.ray_serve import replicas, state
from llamafarm_ray.serving.ray_serve.replicas import RunningApplication, RunningReplica
from llamafarm_ray.serving.telemetry.outcome import End
from llamafarm_ray.serving.telemetry.request_statistics import Activity, RecentRequests
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.clusters import cluster

STATUS = ("models", "status")


def activity(*requests, loaded=(), num_waiting=0):
    """What a replica tells after requests of (version, end, seconds)."""
    recent = RecentRequests(lambda: 1000.0)
    for ref, end, latency_s in requests:
        recent.add(ref, end, latency_s)
    return Activity("tiny", loaded, num_waiting, recent.seen())


OK, FAILED = End.ANSWERED, End.FAILED


@pytest.fixture
def served(bot, folders, monkeypatch):
    """The command line, with ``production`` at ``bot:1.0.0``, two replicas that run and one that starts."""
    bot.text("models", "promote", "bot:1.0.0")
    registry = RegistryService(Location(folders / "home"), principal="ann")
    one, two = (registry.resolve(f"bot:{number}").registered.manifest for number in ("1.0.0", "1.1.0"))
    registry.submit(
        RecordDeployment(
            DeploymentRecorded(
                application="llamafarm",
                base_model="tiny",
                base_digest=one,
                url="http://127.0.0.1:8000/v1",
                ray_address="10.0.0.1:6379",
            )
        )
    )
    first = activity(
        *[("bot:1.0.0", OK, 0.2)] * 58,
        ("bot:1.0.0", FAILED, 0.1),
        ("tiny", OK, 0.2),
        loaded=(f"bot:1.0.0#{one[7:19]}", f"bot:1.1.0#{two[7:19]}"),
        num_waiting=3,
    )
    second = activity(*[("bot:1.0.0", OK, 0.4)] * 60, loaded=(f"bot:1.0.0#{one[7:19]}",))
    found = [
        RunningApplication(
            "llamafarm",
            "/",
            "RUNNING",
            "",
            (
                RunningReplica("k3u8a2xq", "10.0.0.1", "RUNNING", first),
                RunningReplica("p0w2e9rt", "10.0.0.2", "RUNNING", second),
                RunningReplica("z9y8x7w6", "", "STARTING"),
            ),
        )
    ]
    connected = []

    @contextlib.contextmanager
    def connect(address):
        connected.append(address)
        yield

    monkeypatch.setattr(replicas, "applications", lambda: list(found))
    monkeypatch.setattr(state, "http_root", lambda: "http://127.0.0.1:8000")
    monkeypatch.setattr(cluster, "connect", connect)
    bot.found, bot.connected, bot.registry = found, connected, registry
    return bot


def test_for_programs_it_is_all_that_is_known(served):
    told = served.json(*STATUS)
    (application,) = told["applications"]
    assert served.connected == ["10.0.0.1:6379"]
    assert application["url"] == "http://127.0.0.1:8000/v1"
    assert (application["status"], application["base_model"], application["waiting"]) == ("RUNNING", "tiny", 3)
    assert (application["requests_per_s"], application["errors"]) == (2.0, 1)
    assert application["p95_latency_ms"] == pytest.approx(400, rel=0.03)
    assert [(one["node"], one["state"], one["answers"], one["loaded"]) for one in application["replicas"]] == [
        ("10.0.0.1", "RUNNING", True, 2),
        ("10.0.0.2", "RUNNING", True, 1),
        ("", "STARTING", False, 0),
    ]
    versions = {one["version"]: one for one in application["versions"]}
    assert list(versions) == ["tiny", "bot:1.0.0", "bot:1.1.0"]
    assert [one["replicas"] for one in versions.values()] == [2, 2, 1]
    assert versions["bot:1.0.0"]["aliases"] == ["production"]
    assert versions["bot:1.0.0"]["digest"] == served.registry.resolve("bot:1.0.0").registered.manifest
    assert versions["bot:1.1.0"]["p95_latency_ms"] is None
    assert told["rollouts"] == []


@pytest.mark.parametrize("width", [80, 120])
def test_for_people_it_is_tables_that_fit_the_terminal(served, monkeypatch, width):
    served.text("models", "rollout", "start", "bot:1.1.0", "--reason", "new tariff")
    monkeypatch.setattr(terminal.console, "_width", width)
    shown = served.text(*STATUS)

    assert max(map(len, shown.splitlines())) <= width
    digest = served.registry.resolve("bot:1.0.0").registered.manifest[7:19]
    for text in ("k3u8a2xq", "10.0.0.2", "STARTING", "bot:1.0.0", digest, "production", "1 of 3", "Rollouts", "5 %"):
        assert text in shown
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    assert lines["llamafarm"][1:] == ["RUNNING", "2", "402", "1", "3", "http://127.0.0.1:8000/v1"]
    assert lines["p0w2e9rt"][-4:] == ["1", "402", "0", "0"]
    assert "Problems" not in shown


def test_what_is_wrong_is_told_and_what_is_written_steers_no_terminal(served):
    served.found[:] = [RunningApplication("llamafarm", "/", "DEPLOY_FAILED", "[bold]no GPU\x1b[2J", ())]
    shown = served.text(*STATUS)
    assert "[bold]no GPU" in shown
    assert "\x1b" not in shown


def test_a_version_of_a_namespace_that_may_not_be_read_is_not_named(served, monkeypatch):
    monkeypatch.setattr(RegistryService, "may", lambda *_: False)
    (application,) = served.json(*STATUS)["applications"]
    assert [one["version"] for one in application["versions"]] == ["tiny"]
    assert application["requests_per_s"] == 2.0


def test_a_version_from_another_home_is_shown_without_what_only_its_registry_knows(served):
    replica = RunningReplica("k3u8a2xq", "10.0.0.1", "RUNNING", Activity("tiny", ("other:2.0.0#0123456789ab",)))
    served.found[:] = [RunningApplication("llamafarm", "/", "RUNNING", "", (replica,))]
    (application,) = served.json(*STATUS)["applications"]
    assert [(one["version"], one["digest"], one["replicas"]) for one in application["versions"]] == [
        ("tiny", "", 1),
        ("other:2.0.0", "", 1),
    ]


def test_where_nothing_is_deployed_it_says_so(bot, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert bot.text(*STATUS) == "Nothing is deployed.\n"
    assert bot.json(*STATUS) == {"applications": [], "rollouts": []}


def test_watching_shows_it_whenever_it_has_changed(served, monkeypatch):
    looks = []

    def wait(_seconds):
        looks.append(1)
        if len(looks) == 2:
            served.found[:] = []
        if len(looks) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(verb.time, "sleep", wait)
    status, shown, _ = served.run(*STATUS, "--watch")
    assert status == 130
    assert shown.count("Applications") == 1
    assert shown.count("Nothing is deployed.") == 1
    assert served.error(*STATUS, "--watch")["message"] == "Both --watch and --json were given."
