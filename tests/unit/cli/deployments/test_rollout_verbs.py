"""`llamafarm models rollout`: start one, look at it, hold it, end it."""

import contextlib
import datetime as dt
from types import SimpleNamespace

import pytest
from ray.exceptions import GetTimeoutError

from llamafarm_ray.cli import terminal
from llamafarm_ray.cli.deployments import rollout as verbs
from llamafarm_ray.cli.deployments.rollout_view import rollout_view
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import PauseRollout, RecordDeployment, StepRollout
from llamafarm_ray.registry.events import DeploymentRecorded
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.serving.deployment import rollout_actor
from llamafarm_ray.serving.rollouts.progress import Comparison, GuardProgress, RolloutProgress, VariantProgress
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.clusters import cluster

ROLLOUT = ("models", "rollout")


@pytest.fixture
def served(bot):
    """The command line, with ``production`` at ``bot:1.0.0``."""
    bot.text("models", "promote", "bot:1.0.0")
    return bot


@pytest.fixture
def registry(folders):
    return RegistryService(Location(folders / "home"), principal="controller")


def test_a_rollout_is_started_paused_resumed_and_promoted(served):
    said = served.text(*ROLLOUT, "start", "bot:1.1.0", "--steps", "5,50", "--dwell", "10m", "--reason", "new tariff")
    assert said == "bot:1.1.0 gets 5 % of the requests to bot@production now.\n"
    assert served.text(*ROLLOUT, "pause", "bot") == "The rollout of 1.1.0 to bot@production stays at 5 %.\n"
    assert served.text(*ROLLOUT, "resume", "bot") == "The rollout of 1.1.0 to bot@production goes on.\n"
    assert served.text(*ROLLOUT, "promote", "bot", "--reason", "good") == "bot@production is now bot:1.1.0.\n"
    (found,) = served.json(*ROLLOUT, "status", "bot")
    assert (found["id"], found["status"], found["percent"]) == ("bot@production#1", "promoted", 0)
    assert [change["reason"] for change in found["changes"]] == ["new tariff", "", "", "good"]
    assert served.json("models", "describe", "bot@production")["version"] == "1.1.0"
    history = [entry["action"] for entry in served.json("models", "history", "bot", "--alias", "production")]
    assert history[:4] == ["promoted", "rollout resumed", "rollout paused", "rollout started"]


def test_an_aborted_rollout_leaves_the_alias(served):
    served.text(*ROLLOUT, "start", "bot")  # a name alone is its highest version
    assert served.text(*ROLLOUT, "abort", "bot") == "bot@production stays bot:1.0.0.\n"
    assert served.text(*ROLLOUT, "status") == "No rollout is under way.\n"
    assert served.json(*ROLLOUT, "status") == []
    (over,) = served.json(*ROLLOUT, "status", "--all")
    assert over["status"] == "aborted"


def test_status_is_a_view_with_a_name_a_history_and_of_several_a_table(served, registry):
    served.text(*ROLLOUT, "start", "bot:1.1.0", "--reason", "new tariff")
    registry.submit(StepRollout("bot", "production"), reason="120 requests were good")
    view = served.text(*ROLLOUT, "status")
    for text in ("bot@production#1", "canary from 1.0.0 to 1.1.0", "running", "2 of 3", "25 %", "by controller: 120"):
        assert text in view
    assert "new tariff" not in view
    both = served.text(*ROLLOUT, "status", "bot", "--env", "production")
    assert "History of bot@production#1" in both
    assert "new tariff" in both
    assert "1 (5 %)" in both
    served.text("models", "promote", "bot:1.0.0", "--env", "staging")
    served.text(*ROLLOUT, "start", "bot:1.1.0", "--env", "staging")
    several = served.text(*ROLLOUT, "status")
    assert several.index("1 canary") < several.index("bot@staging#1") < several.index("bot@production#1")
    served.text(*ROLLOUT, "abort", "bot", "--env", "staging")
    served.text(*ROLLOUT, "abort", "bot", "--reason", "no more")
    over = served.text(*ROLLOUT, "status", "--all")
    assert "aborted" in over
    assert "no more" in over
    assert "bot@production#1" not in over
    assert "aborted, since just now by ann: no more" in served.text(*ROLLOUT, "status", "bot", "--env", "production")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_watching_shows_each_change_and_ends_with_the_rollout(served, registry, monkeypatch, is_terminal):
    served.text(*ROLLOUT, "start", "bot:1.1.0")
    monkeypatch.setattr(terminal.console, "_force_terminal", is_terminal)
    monkeypatch.setattr(terminal.console, "is_interactive", is_terminal)
    monkeypatch.setenv("TERM", "xterm")
    looks = []

    def wait(_seconds):
        looks.append(1)
        if len(looks) == 2:
            registry.submit(StepRollout("bot", "production"), reason="good so far")
        if len(looks) == 4:
            served_by_others = RegistryService(registry.home, principal="ann")
            served_by_others.promote("bot:1.1.0", "production", reason="by hand")

    monkeypatch.setattr(verbs.time, "sleep", wait)
    shown = served.text(*ROLLOUT, "status", "--watch")
    assert len(looks) == 4
    places = [shown.index(text) for text in ("5 %", "25 %", "promoted")]
    assert places == sorted(places)
    assert "Nothing is deployed." in shown
    assert shown.count("good so far") == (2 if is_terminal else 1)  # at each look, or once for each change


PROGRESS = RolloutProgress(
    until=dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC),
    next="the candidate had 64 of 100 requests at this step",
    baseline=VariantProgress(requests=1234, errors=12, p95_latency_s=0.42, ratings=32, mean_rating=0.8),
    candidate=VariantProgress(requests=64, errors=4, p95_latency_s=0.5),
    step_requests=64,
    guards=(
        GuardProgress(name="max_error_ratio", limit=1.5, measured=6.8, share=0.62),
        GuardProgress(name="max_error_rate", limit=0.05, measured=0.0625, share=0.04),
    ),
)


class Controller:
    """A controller's actor: what it tells, or what it raises."""

    def __init__(self):
        self.told, self.asked = {"bot@production#1": PROGRESS.model_dump(mode="json")}, 0

    @property
    def progress(self):
        return SimpleNamespace(remote=self._tell)

    def _tell(self):
        self.asked += 1
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


@pytest.fixture
def watched(served, registry, monkeypatch):
    """A canary of ``bot:1.1.0`` under way, at a deployment on record whose controller answers."""
    import ray

    served.text(*ROLLOUT, "start", "bot:1.1.0", "--dwell", "10m")
    event = DeploymentRecorded(
        application="llamafarm",
        base_model="base",
        base_digest=registry.resolve("base").registered.manifest,
        url="http://127.0.0.1:1/v1",
        ray_address="10.0.0.1:6379",
    )
    registry.submit(RecordDeployment(event))
    served.connected, served.controller, served.unreachable = [], Controller(), None

    @contextlib.contextmanager
    def connect(address):
        served.connected.append(address)
        if served.unreachable:
            raise served.unreachable
        yield

    def controller_actor(home, application):
        assert (home, application) == (registry.home.uri, "llamafarm")
        if served.controller is None:
            raise ValueError("no such actor")
        return served.controller

    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.setattr(rollout_actor, "controller_actor", controller_actor)
    monkeypatch.setattr(ray, "get", lambda told, **_: told)
    return served


@pytest.mark.parametrize("width", [80, 120])
def test_how_it_goes_fits_the_terminal(watched, monkeypatch, width):
    monkeypatch.setattr(terminal.console, "_width", width)
    shown = watched.text(*ROLLOUT, "status")
    assert watched.connected == ["10.0.0.1:6379"]
    assert max(map(len, shown.splitlines())) <= width
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    assert lines["baseline"] == ["baseline", "1.0.0", "1,234", "12", "0.97", "%", "420", "ms", "0.80", "32"]
    assert lines["candidate"] == ["candidate", "1.1.0", "64", "4", "6.25", "%", "500", "ms"]
    assert lines["max_error_ratio"] == ["max_error_ratio", "6.8", "1.5", "━" * 12 + "─" * 8, "62", "%"]
    assert lines["max_error_rate"] == ["max_error_rate", "6.25", "%", "5.00", "%", "━" + "─" * 19, "4", "%"]
    assert lines["requests"][-3:] == ["64", "of", "100"]
    assert "64 of 100 requests at this step" in shown


def test_for_programs_it_is_what_the_controller_told(watched):
    (found,) = watched.json(*ROLLOUT, "status")
    assert found["progress"] == PROGRESS.model_dump(mode="json")
    assert 0 <= found["step_lasted_s"] < 60


def test_the_view_ticks_and_tells_when_nobody_asks(watched, registry):
    record = registry.refresh().rollout("bot", "production")

    def shown(after_s):
        now = record.step_since + dt.timedelta(seconds=after_s)
        progress = PROGRESS.model_copy(update={"until": record.step_since + dt.timedelta(seconds=60)})
        with terminal.console.capture() as drawn:
            terminal.console.print(rollout_view(record, progress, now))
        return drawn.get()

    assert "1:05 of 10:00" in shown(65)
    assert "1:06 of 10:00" in shown(66)
    assert "no request was seen" not in shown(66)
    assert "no request was seen for 0:15" in shown(75)
    registry.submit(PauseRollout("bot", "production"))
    record = registry.refresh().rollout("bot", "production")
    assert "0:00 of 10:00" in shown(600)  # paused at once: its time stands still


def test_of_two_variants_it_says_which_one_is_ahead_and_how_sure_that_is(served, registry):
    served.text(*ROLLOUT, "start", "bot:1.1.0", "--kind", "ab", "--metric", "error_rate")
    record = registry.refresh().rollout("bot", "production")
    ahead = Comparison(metric="error_rate", leader="candidate", sureness=0.712, needed=0.95, measured=80)
    for comparison, said in (
        (ahead, "candidate by error rate, 71.2 % sure (needs 95 %)"),
        (Comparison(metric="error_rate"), "neither by error rate so far"),
        (
            ahead.model_copy(update={"difference": 0.01, "low": -0.02, "high": 0.04, "more_needed": 1200}),
            "noise: +0.01 (-0.02 to +0.04); about 1,200 more would decide it",
        ),
    ):
        progress = PROGRESS.model_copy(update={"comparison": comparison})
        with terminal.console.capture() as drawn:
            terminal.console.print(rollout_view(record, progress, PROGRESS.until))
        assert said in drawn.get()
        assert "1,298 of 100,000" in drawn.get()


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (AttributeError("progress"), "is another release's"),
        ({"bot@production#1": {"until": "soon"}}, "is another release's"),
        (GetTimeoutError("late"), "does not answer"),
        (None, "is not running"),
        (InputError("Nothing answers at 10.0.0.1:6379."), "Nothing answers at 10.0.0.1:6379."),
        ({}, "No controller takes it further yet"),
    ],
    ids=["old", "new", "late", "gone", "unreachable", "just started"],
)
def test_where_no_controller_answers_it_is_what_the_registry_knows(watched, told, says):
    if isinstance(told, InputError):
        watched.unreachable = told
    elif told is None:
        watched.controller = None
    else:
        watched.controller.told = told
    shown = watched.text(*ROLLOUT, "status")
    assert "This is all that the registry knows." in shown
    assert says in shown
    assert "1 of 3" in shown
    (found,) = watched.json(*ROLLOUT, "status")
    assert found["progress"] is None
    assert says in found["progress_trouble"]


def test_what_another_release_tells_besides_is_passed_over(watched):
    watched.controller.told["bot@production#1"] |= {"colour": "green"}
    del watched.controller.told["bot@production#1"]["comparison"]
    (found,) = watched.json(*ROLLOUT, "status")
    assert found["progress"] == PROGRESS.model_dump(mode="json")


def test_the_plan_is_the_configurations_and_flags_win(served, folders):
    (folders / "rollout.yaml").write_text(
        "deployment:\n"
        "  strategy: canary\n"
        "  rollout:\n"
        "    min_requests: 7\n"
        "    guards: {max_error_ratio: 3, metrics: {evaluation_results.benchmarks.medical_qa.accuracy: '>0.8'}}\n"
    )
    options = ("--config", "rollout.yaml", "--set", "deployment.rollout.guards.confidence=0.9")
    plan = served.json(*ROLLOUT, "start", "bot:1.1.0", *options)["plan"]
    assert (plan["kind"], plan["min_requests"], plan["sticky_by"]) == ("canary", 7, "user")
    assert plan["guards"] == {
        "max_error_rate": None,
        "max_error_ratio": 3,
        "max_latency_ratio": 1.5,
        "min_feedback": None,
        "metrics": {"evaluation_results.benchmarks.medical_qa.accuracy": ">0.8"},
        "confidence": 0.9,
    }
    served.text(*ROLLOUT, "abort", "bot")
    plan = served.json(*ROLLOUT, "start", "bot:1.1.0", "--config", "rollout.yaml", "--kind", "ab", "--percent", "20")[
        "plan"
    ]
    assert (plan["kind"], plan["percent"], plan["metric"]) == ("ab", 20, "feedback")


@pytest.mark.parametrize(
    ("kind", "percent", "is_automatic", "said"),
    [
        ("blue_green", 100, True, "gets 100 %"),
        ("shadow", 50, False, "gets copies of 50 %"),
        ("ab", 50, True, "gets 50 %"),
    ],
)
def test_each_kind_can_be_started(served, kind, percent, is_automatic, said):
    assert said in served.text(*ROLLOUT, "start", "bot:1.1.0", "--kind", kind)
    (found,) = served.json(*ROLLOUT, "status")
    assert (found["plan"]["kind"], found["percent"], found["plan"]["automatic"]) == (kind, percent, is_automatic)
    bound = {"blue_green": (0.05, None)}.get(kind, (None, 1.5))
    assert (found["plan"]["guards"]["max_error_rate"], found["plan"]["guards"]["max_error_ratio"]) == bound


def test_a_dry_run_starts_nothing(served):
    shown = served.json(*ROLLOUT, "start", "bot:1.1.0", "--steps", "1,10", "--dry-run")
    assert shown["steps"] == [1, 10]
    assert served.json(*ROLLOUT, "status", "--all") == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("start", "bot:1.0.0"), "conflict", "points at bot:1.0.0 already"),
        (("start", "bot:1.1.0", "--env", "staging"), "not_found", "no alias 'staging'"),
        (("start", "bott:1.1.0"), "not_found", "no model 'bott'"),
        (("start", "bot:1.1.0", "--steps", "a"), "invalid_input", "'a' is no list of percents"),
        (("start", "bot:1.1.0", "--steps", "50,5"), "invalid_config", "must rise, and are 50, 5"),
        (("start", "bot:1.1.0", "--kind", "red_black"), "invalid_config", "must be one of"),
        (("start", "bot:1.1.0", "--kind", "ab", "--steps", "5"), "invalid_config", "has no effect"),
        (("start", "bot:1.1.0", "--dwell", "soon"), "invalid_input", "no length of time"),
        (("pause", "bot"), "not_found", "bot@production never had a rollout"),
        (("abort", "bot@production"), "invalid_input", "is a reference, not a name"),
        (("promote", "bot", "--env", "a b"), "invalid_input", "is no name"),
        (("status", "bot"), "not_found", "bot never had a rollout"),
        (("status", "nope"), "not_found", "no model 'nope'"),
        (("status", "--watch"), "invalid_input", "Both --watch and --json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes_are_explained(served, arguments, code, says):
    error = served.error(*ROLLOUT, *arguments)
    assert error["code"] == code
    assert says in error["message"]


def test_only_what_one_may_read_is_listed(served, registry, monkeypatch):
    served.text(*ROLLOUT, "start", "bot:1.1.0")
    token = registry.add_principal("root", {"*": Role.ADMIN})
    root = RegistryService(registry.home, token=token)
    monkeypatch.setenv("LLAMAFARM_TOKEN", root.add_principal("team", {"team": Role.VIEWER}))
    assert served.json(*ROLLOUT, "status") == []
    assert served.error(*ROLLOUT, "status", "bot")["code"] == "access_denied"
    assert served.error(*ROLLOUT, "abort", "bot")["code"] == "access_denied"
    monkeypatch.setenv("LLAMAFARM_TOKEN", token)
    assert len(served.json(*ROLLOUT, "status")) == 1
