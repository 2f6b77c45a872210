import pytest
import yaml

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation import BenchmarkScores, EvaluationResult
from llamafarm_ray.evaluation.result import RESULTS
from llamafarm_ray.registry import open_registry
from llamafarm_ray.workflows.versions.metrics import add_result


def result(**benchmarks):
    made = {
        name: BenchmarkScores({"accuracy": value}, "+0.05", {"accuracy": 0.2}, num_examples=9)
        for name, value in benchmarks.items()
    }
    return EvaluationResult("bot:1.0.0", "2026-11-29T00:00:00Z", made)


def test_a_card_has_what_registry_and_results_know(bot, folders):
    registry = open_registry(None)
    add_result(registry, "bot:1.0.0", result(mmlu=0.41, own=0.9))
    registry.promote("bot:1.0.0", "production")
    bot.text("models", "card", "bot:1.0.0", "--output", "README.md")
    text = (folders / "README.md").read_text(encoding="utf-8")
    assert text == bot.text("models", "card", "bot@production")
    assert bot.json("models", "card", "bot@production") == {"model": "bot:1.0.0", "card": text}
    _, head, body = text.split("---\n", 2)
    read = yaml.safe_load(head)
    assert (read["license"], read["base_model"], read["library_name"]) == ("mit", "base", "peft")
    assert read["datasets"] == ["qa_v1"]
    (index,) = read["model-index"]
    assert {one["dataset"]["name"]: one["metrics"] for one in index["results"]} == {
        "mmlu": [{"type": "accuracy", "value": 0.41}],
        "own": [{"type": "accuracy", "value": 0.9}],
    }
    assert "| mmlu | accuracy | 0.41 | 0.2 | +0.05 |" in body
    assert "| aliases | production |" in body


def test_a_card_of_what_was_never_measured_says_so(bot):
    assert "Nothing was measured." in bot.text("models", "card", "bot:1.0.0")


def test_a_second_evaluation_replaces_benchmarks_of_its_names_alone(bot):
    registry = open_registry(None)
    add_result(registry, "bot:1.0.0", result(mmlu=0.41, own=0.9))
    record = add_result(registry, "bot:1.0.0", result(own=0.95))
    known = EvaluationResult.from_dict(record.metrics).benchmarks
    assert {name: scores.metrics["accuracy"] for name, scores in known.items()} == {"mmlu": 0.41, "own": 0.95}


def test_an_evaluation_keeps_results_that_were_written_by_hand_or_is_refused(bot):
    registry = open_registry(None)
    registry.record_metrics("bot:1.0.0", {RESULTS: {"benchmarks": {"hand": {"accuracy": "good"}}, "by": "ann"}})
    results = add_result(registry, "bot:1.0.0", result(own=0.9)).metrics[RESULTS]
    assert (list(results["benchmarks"]), results["by"]) == (["hand", "own"], "ann")
    registry.record_metrics("bot:1.0.0", {RESULTS: "good"})
    with pytest.raises(InputError, match="can't be added to"):
        add_result(registry, "bot:1.0.0", result(own=0.9))
