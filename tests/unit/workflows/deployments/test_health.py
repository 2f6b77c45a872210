"""Health is judged from what replicas recorded; people are told once, and a worse version is rolled back if asked."""

import json

import numpy as np
import pytest
from adapters import make_adapter
from simulated_requests import drawn_block, drawn_week, write_page
from tiny_model import make_tiny_model
from webhook_server import WebhookServer

from llamafarm_ray.cli.main import run
from llamafarm_ray.config import Config, parse_config
from llamafarm_ray.errors import NotFoundError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.serving.health.versions import health_dict
from llamafarm_ray.serving.journal.samples import LiveSample
from llamafarm_ray.storage import Location
from llamafarm_ray.training.monitoring.alerts import WebhookChannel
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.deployments.health import accept_changes, check_health, roll_back_worse, tell

BOT = "bot:2.0.0"
CHANCES = np.linspace(0.1, 0.9, 64)


@pytest.fixture
def registry(tmp_path):
    made = RegistryService(Location(tmp_path / "home"), principal="ann")
    for number in ("1.0.0", "2.0.0"):
        folder = tmp_path / number
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"n": number}))
        made.register(folder, name="bot", kind=ModelKind.ADAPTER, version=number)
        made.promote(f"bot:{number}", "production")
    return made


def week(*, failing=0, shifted=0):
    """Two thousand requests, of which the last ones fail or are on another topic."""
    rng = np.random.default_rng(1)
    blocks = drawn_week(rng, 2000, signs=CHANCES)
    for block in blocks[len(blocks) - failing :] if failing else ():
        block.num_failed, block.num_answered = 20, 30
    for at in range(len(blocks) - shifted, len(blocks)):
        old = blocks[at]
        blocks[at] = drawn_block(rng, old.start_s, old.end_s, CHANCES[::-1])
    return blocks


def statuses(registry, *names):
    return {one.ref: one.status for one in check_health(registry, names)}


def test_versions_are_stable_drifted_degraded_or_unknown(registry):
    write_page(registry.home, {"bot:1.0.0": week(), BOT: week(failing=10), "tiny": week(shifted=10), "a:1.0.0": []})
    assert statuses(registry) == {"bot:1.0.0": "stable", BOT: "degraded", "tiny": "drifted", "a:1.0.0": "unknown"}
    assert set(statuses(registry, "bot")) == {"bot:1.0.0", BOT}
    assert set(statuses(registry, "bot@production")) == {BOT}
    with pytest.raises(NotFoundError, match="No requests to 'bott'"):
        check_health(registry, ["bott"])


def test_the_blocks_of_all_replicas_and_days_are_one_version(registry):
    blocks = week(shifted=10)
    write_page(registry.home, {BOT: blocks[::2]}, replica="one")
    write_page(registry.home, {BOT: blocks[1::2]}, replica="two")
    assert statuses(registry) == {BOT: "drifted"}


def test_people_are_told_once_until_it_is_over_and_again_when_it_comes_back(registry):
    write_page(registry.home, {BOT: week(failing=10)})
    with WebhookServer() as hook:
        channels = [WebhookChannel(hook.url)]
        found = check_health(registry)
        assert tell(registry.home, found, channels) == ([f"llamafarm {BOT}: failures changed"], [])
        assert tell(registry.home, found, channels) == ([], [])
        write_page(registry.home, {BOT: week()})
        assert tell(registry.home, check_health(registry), channels) == ([], [])
        assert len(tell(registry.home, found, channels)[0]) == 1
    assert len(hook.bodies) == 2
    assert hook.bodies[0]["version"] == BOT
    assert hook.bodies[0]["alarm"]["signal"] == "failed"
    assert "The share of failures is 40.0% of 250, after" in hook.bodies[0]["text"]


def test_a_channel_that_takes_nothing_is_told(registry):
    write_page(registry.home, {BOT: week(failing=10)})
    channel = WebhookChannel("http://127.0.0.1:1/", waits_s=(0,), timeout_s=0.5)
    told, problems = tell(registry.home, check_health(registry), [channel])
    assert len(told) == 1
    assert "not sent by webhook 127.0.0.1" in problems[0]


def test_a_worse_version_is_rolled_back_and_a_drifted_one_is_not(registry):
    write_page(registry.home, {BOT: week(shifted=10)})
    assert roll_back_worse(registry, check_health(registry), "production") == []
    write_page(registry.home, {BOT: week(failing=10)})
    found = check_health(registry)
    assert roll_back_worse(registry, found, "staging") == []
    assert roll_back_worse(registry, found, "production") == ["bot@production is rolled back to bot:1.0.0."]
    assert registry.resolve("bot@production").ref == "bot:1.0.0"
    assert roll_back_worse(registry, check_health(registry), "production") == []
    move = registry.state.models["bot"].aliases["production"][-1]
    assert "failures" in str(move.reason)


def test_a_reference_stays_when_its_records_are_removed(registry):
    blocks = week(shifted=10)
    write_page(registry.home, {BOT: blocks})
    assert statuses(registry) == {BOT: "drifted"}
    write_page(registry.home, {BOT: blocks[25:]})
    (found,) = check_health(registry)
    assert (found.status, found.health.reference.num_requests) == ("drifted", 1000)


def test_a_change_that_is_accepted_begins_a_new_reference(registry):
    write_page(registry.home, {BOT: week(shifted=10)})
    assert accept_changes(registry, check_health(registry)) == [f"{BOT} has a new reference, from now on."]
    (found,) = check_health(registry)
    assert (found.status, found.health.reference.num_requests) == ("unknown", 0)
    assert accept_changes(registry, [found]) == []


def test_samples_are_scored_by_the_metrics_that_need_no_right_answer(registry):
    said = ("I'm sorry, I can't help with that.", "It is in the shop.")
    samples = [LiveSample(BOT, 1.0, "Where?", text, 2.0, 8, is_redacted=True) for text in said]
    write_page(registry.home, {BOT: week()}, samples=samples)
    (found,) = check_health(registry)
    assert found.scores["refusal_rate"].value == 0.5
    assert found.scores["tokens_per_second"].value == 4.0
    assert health_dict(found)["scores"]["refusal_rate"] == {"value": 0.5, "samples": 2}


def test_the_verb_prints_a_table_and_json_and_looks_by_its_own_window(registry, capsys):
    write_page(registry.home, {BOT: week(failing=10)})
    home = ["--home", registry.home.uri]
    assert run(["models", "health", "bot", *home]) == 0
    printed = capsys.readouterr().out
    assert "degraded" in printed
    assert "worse" in printed
    assert "an alarm for failures began with the requests of 1970-01-0" in printed
    assert run(["models", "health", *home, "--json", "--window", "500", "--alert", "--rollback", "production"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["versions"]
    assert (told["version"], told["status"], told["requests"], told["windows"]) == (BOT, "degraded", 2000, 2)
    assert registry.refresh()
    assert registry.resolve("bot@production").ref == "bot:1.0.0"


def test_questions_that_surprise_the_base_are_told_from_those_of_the_reference(registry, tmp_path, capsys):
    base = make_tiny_model(tmp_path / "base")
    kept = registry.register(base, name="tiny", kind=ModelKind.BASE)
    details = {"base_model": "tiny:1.0.0", "base_digest": kept.registered.manifest}
    registry.register(make_adapter(base, tmp_path / "adapter", seed=1), name="own", kind=ModelKind.ADAPTER, **details)
    end_s = week()[19].end_s  # of the thousand requests of the reference
    asked = [("Where is the shop?", end_s - number) for number in range(8)]
    asked += [("zxqv zxqv jjkw " * 4, end_s + number) for number in range(1, 9)]
    asked.append(("Where is it?", week()[0].start_s - 60))  # of an older reference
    samples = [LiveSample("own:1.0.0", at, text, "Here.", 1.0, 2, is_redacted=True) for text, at in asked]
    write_page(registry.home, {"own:1.0.0": week()}, samples=samples)
    home = ["--home", registry.home.uri]
    capsys.readouterr()  # libraries that make the adapter may say something
    assert run(["models", "health", "own", "--perplexity", "--json", *home]) == 0
    (told,) = json.loads(capsys.readouterr().out)["versions"]
    found = told["question_perplexity"]
    assert (found["num_reference"], found["num_later"]) == (8, 8)
    assert found["superiority"] in {0, 1}
    assert found["p_value"] < 0.01
    assert run(["models", "health", "own", "--perplexity", *home]) == 0
    assert "8 sampled questions of the reference and 8 later ones" in " ".join(capsys.readouterr().out.split())
    at_endpoint = parse_config({"evaluation": {"endpoint": {"base_url": "http://127.0.0.1:9/v1"}}})
    (asked_there,) = check_health(registry, perplexity=at_endpoint)
    assert asked_there.perplexity is None
    assert "and not for its base" in asked_there.trouble


def test_perplexity_without_samples_or_without_the_base_is_a_sentence(registry):
    write_page(registry.home, {BOT: week()})
    (found,) = check_health(registry, perplexity=Config())
    assert "No questions are sampled" in found.trouble
    write_page(
        registry.home, {BOT: week()}, samples=[LiveSample(BOT, 1.0, "Where?", "Here.", 1.0, 2, is_redacted=True)]
    )
    (found,) = check_health(registry, perplexity=Config())
    assert found.perplexity is None
    assert found.trouble
    assert health_dict(found)["question_perplexity_trouble"] == found.trouble


def test_without_records_the_verb_says_so(registry, capsys):
    assert run(["models", "health", "--home", registry.home.uri]) == 0
    assert "No requests are on record" in capsys.readouterr().out
