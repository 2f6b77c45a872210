"""`llamafarm models rollout`: start one, look at it, hold it, end it."""

import pytest

from llamafarm_ray.cli import rollout as verbs
from llamafarm_ray.cli import terminal
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.access import Role
from llamafarm_ray.registry.commands import StepRollout
from llamafarm_ray.storage import Location

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


def test_status_is_a_table_and_with_a_name_a_history(served, registry):
    served.text(*ROLLOUT, "start", "bot:1.1.0", "--reason", "new tariff")
    registry.submit(StepRollout("bot", "production"), reason="120 requests were good")
    table = served.text(*ROLLOUT, "status")
    for text in ("bot@production", "1 canary", "1.0.0", "1.1.0", "running", "2 of 3", "25 %", "controller"):
        assert text in table
    assert "new tariff" not in table
    both = served.text(*ROLLOUT, "status", "bot", "--env", "production")
    assert "History of bot@production#1" in both
    assert "new tariff" in both
    assert "1 (5 %)" in both


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
    assert shown.count("good so far") == 1


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
