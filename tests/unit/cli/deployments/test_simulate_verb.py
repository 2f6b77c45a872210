import json

import pytest
from fixed_latency import FixedLatency, in_thread


@pytest.fixture
def endpoint():
    with in_thread(FixedLatency(latency_s=0.02)) as served:
        yield served


FAST = ("--rate", "50", "--duration", "1s", "--pattern", "constant")


def test_a_simulation_prints_and_keeps_what_production_metrics_are(bot, endpoint, folders):
    asked = ("--url", endpoint.url, "--model", "bot", *FAST, "--record", "bot:1.0.0", "--output", "load.json")
    status, out, err = bot.run("models", "simulate", *asked, "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert result == json.loads((folders / "load.json").read_text(encoding="utf-8"))
    metrics = result["evaluation_results"]["production_metrics"]
    assert (metrics["error_rate"], metrics["task_completion_rate"]) == (0, 1)
    assert metrics["latency_p95_s"] >= 0.02
    assert metrics["digests"]["data"].startswith("sha256:")
    assert result["evaluation_results"]["model_id"] == "bot:1.0.0#d"
    assert result["simulation"]["num_requests"] == len(endpoint.asked) - 1 == 50  # one asks whether anybody answers
    shown = bot.json("models", "describe", "bot:1.0.0")
    assert shown["metrics"]["evaluation_results"]["production_metrics"] == metrics


def test_an_objective_finds_a_rate_and_a_person_can_read_it(llamafarm, endpoint):
    asked = ("--url", endpoint.url, "--model", "bot", *FAST, "--slo", "p50<30s", "--max-rate", "50")
    status, out, _ = llamafarm.run("models", "simulate", *asked)
    assert status == 0
    assert "50/s keeps p50<30s" in out
    assert "first token" in out
    assert "tasks completed" in out


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (("--pattern", "burst"), "Did you mean bursts"),
        (("--turns", "4-2"), "no number of turns"),
        (("--slo", "p95<800"), "no objective"),
        (("--slo", "ttft_p95<1s", "--no-stream"), "of streams alone"),
        (("--slo", "p95<1s", "--replay", "log.jsonl"), "A replay has its own rate"),
        (("--replay", "missing.jsonl"), "missing.jsonl can't be read"),
        (("--url", "http://127.0.0.1:9/v1"), "Name it with --model"),
        (("--url", "http://127.0.0.1:9/v1", "--model", "bot"), "Nothing answers at"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(llamafarm, asked, named):
    status, _, err = llamafarm.run("models", "simulate", *asked)
    assert status == 2
    assert named in err
