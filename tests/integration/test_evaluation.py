"""Evaluation as a Ray task: results, progress and errors."""

import datetime as dt
import json

import pytest
from adapters import make_adapter
from tiny_model import make_rows, make_tiny_model

from llamafarm_ray.errors import InputError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def use_of(registry, name):
    """Return the seconds of CPU cores that evaluations of a model used today."""
    from llamafarm_ray.registry.usage import CPU, WorkKey, read_ledger

    used = read_ledger(registry.home, dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1))
    return used[WorkKey("", name, "evaluate", CPU)].device_s


def test_an_adapter_is_measured_beside_its_base(tmp_path):
    from llamafarm_ray.evaluation import EvaluationResult, evaluate
    from llamafarm_ray.evaluation.measured_model import MeasuredModel

    base = make_tiny_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", seed=1)
    seen = []
    result = evaluate(
        model=MeasuredModel(base, adapter, "w", "b"),
        rows=make_rows(5),
        metrics=["perplexity", "bleu", "rouge"],
        max_new_tokens=4,
        model_id="bot:1.0.0",
        on_progress=lambda _, done: seen.append(done),
    )
    scores = result.benchmarks["held_out"]
    assert set(scores.metrics) == set(scores.baseline) == {"perplexity", "bleu", "rouge_l"}
    assert scores.metrics["perplexity"] != scores.baseline["perplexity"]
    assert scores.improvement.endswith("%")
    assert seen[-1] == 1
    assert EvaluationResult.from_dict(result.to_dict()) == result


def test_an_error_on_the_worker_comes_back_as_itself(tmp_path):
    from llamafarm_ray.evaluation import evaluate
    from llamafarm_ray.evaluation.measured_model import MeasuredModel

    with pytest.raises(InputError, match="is not a folder"):
        evaluate(
            model=MeasuredModel(tmp_path / "nowhere", None, "w", "w"),
            rows=make_rows(1),
            metrics=["perplexity"],
            max_new_tokens=4,
            model_id="bot",
        )
    model = MeasuredModel(tmp_path, None, "w", "w")
    with pytest.raises(InputError, match="no examples"):
        evaluate(model=model, rows=[], metrics=["bleu"], max_new_tokens=4, model_id="bot")


def test_questions_are_asked_beside_the_base_and_the_result_stays_on_the_version(tmp_path):
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.evaluation.report import ResultPage
    from llamafarm_ray.registry import RegistryService
    from llamafarm_ray.storage import Location
    from llamafarm_ray.types import ModelKind
    from llamafarm_ray.workflows.evaluation.register_set import register_set
    from llamafarm_ray.workflows.evaluation.results import store_result, write_result
    from llamafarm_ray.workflows.evaluation.run import EvaluationRun
    from llamafarm_ray.workflows.versions.card import model_card
    from llamafarm_ray.workflows.versions.leaderboard import make_leaderboard

    base = make_tiny_model(tmp_path / "base")
    registry = RegistryService(Location(tmp_path / "home"), principal="ann")
    kept = registry.register(base, name="tiny", kind=ModelKind.BASE)
    for number in (1, 2):
        adapter = make_adapter(base, tmp_path / f"adapter{number}", seed=number)
        details = {"base_model": "tiny:1.0.0", "base_digest": kept.registered.manifest}
        registry.register(adapter, name="bot", kind=ModelKind.ADAPTER, **details)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "mill.md").write_text("The mill was built in 1832.\n", encoding="utf-8")
    question = {"question": "When was the mill built?", "answers": ["1832"], "document": "mill.md"}
    (tmp_path / "q.jsonl").write_text(json.dumps(question), encoding="utf-8")
    own = {"prompt": "When was the mill built?", "answers": ["1832"]}
    (tmp_path / "own.jsonl").write_text(json.dumps(own), encoding="utf-8")
    sets = {name: register_set(registry, tmp_path / f"{name}.jsonl") for name in ("q", "own")}
    settings = {
        "questions": "q",
        "corpus": str(tmp_path / "docs"),
        "sentence_ranker": "base_model",
        "custom_evaluations": [f"own@{sets['own'].digest[7:19]}"],
        "max_new_tokens": 4,
        "risk": ["fairness", "memorization"],
    }
    run = EvaluationRun.prepare(parse_config({"evaluation": settings}), registry, "bot:1.0.0")
    result = run.run()
    assert not list((tmp_path / "home" / "evaluation-answers").rglob("*.json")), "kept until it is done"
    assert list((tmp_path / "home" / "cache" / "generation" / "lessons").glob("*.safetensors")), "the base model ranked"
    asked = ["closed_book", "retrieved", "gold", "own"]
    assert list(result.benchmarks) == [*asked, "general_text"]
    of_set = {**dict.fromkeys(asked[:3], "q"), "own": "own"}
    assert {name: result.benchmarks[name].dataset for name in asked} == {
        name: f"{of_set[name]}@{sets[of_set[name]].digest}" for name in asked
    }
    assert all(scores.baseline and scores.comparison for scores in result.benchmarks.values())
    assert result.risk["fairness"].baseline
    assert result.risk["memorization"].reason == "its lineage names no training data"
    assert result.contamination["not_compared"] == ["its lineage names no training data"]
    assert result.rag_integration["retrieval_relevance"] == 1
    assert use_of(registry, "bot") > 0
    write_result(result, tmp_path / "eval.json")
    (row,) = json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))["questions"]
    assert {"model", "baseline", "passages", "relevant"} <= set(row["retrieved"])
    assert store_result(registry, run.model, result) == "bot:1.0.0"
    stored = registry.resolve("bot:1.0.0").metrics["evaluation_results"]
    parts = {"weights", "data", "code", "template", "settings", "backend"}
    assert all(set(scores["digests"]) == parts for scores in stored["benchmarks"].values())
    assert set(stored["risk"]["fairness"]["digests"]) == parts
    ranked = {ranking.benchmark: [row.ref for row in ranking.rows] for ranking in make_leaderboard(registry).rankings}
    assert ranked == {name: ["bot:1.0.0"] for name in [*result.benchmarks, "risk.fairness"]}
    card = model_card(registry, "bot:1.0.0")
    assert all(f"| {name} | accuracy |" in card for name in asked)
    assert "| fairness | largest_gap " in card
    page = ResultPage(result).html()
    assert all(f"{name}: worst answers" in page for name in asked)
    assert "decision set 1" in page
    settings |= {"risk": [], "forgetting": False}
    rival = EvaluationRun.prepare(parse_config({"evaluation": settings}), registry, "bot:1.0.0", "bot:1.1.0").run()
    assert rival.benchmarks["gold"].num_examples == 1
    assert rival.questions[0]["gold"]["baseline"]["answer"] != rival.questions[0]["gold"]["model"]["answer"]


@pytest.mark.long
def test_a_benchmarks_scores_do_not_depend_on_the_number_of_workers(tmp_path):
    pytest.importorskip("lm_eval", reason="the extra `benchmarks` is not installed")
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.registry import RegistryService
    from llamafarm_ray.storage import Location
    from llamafarm_ray.workflows.evaluation.run import EvaluationRun

    base = make_tiny_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", seed=1)
    rows = [
        {"question": f"What needs water {number}?", "choices": ["a", "b", "c", "d"], "answer": number % 4}
        for number in range(100)
    ]
    (tmp_path / "data").mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for split in ("test", "dev"):
        (tmp_path / "data" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    found = {}
    for workers in (1, 3):
        registry = RegistryService(Location(tmp_path / f"home{workers}"), principal="ann")
        settings = {
            "benchmarks": ["mmlu_anatomy"],
            "benchmark_data": str(tmp_path / "data"),
            "num_fewshot": 0,
            "workers": workers,
            "forgetting": False,
        }
        config = parse_config({"base_model": str(base), "evaluation": settings})
        found[workers] = EvaluationRun.prepare(config, registry, str(adapter)).run().benchmarks["mmlu_anatomy"]
        assert use_of(registry, "adapter") > 0
    assert found[1] == found[3]
    assert found[1].num_examples == 100
    assert found[1].baseline["accuracy"] is not None
