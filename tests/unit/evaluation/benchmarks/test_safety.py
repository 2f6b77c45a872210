"""lm-eval's tasks about safety: risks by name, with their method, their own first score and its direction."""

import pytest

from llamafarm_ray.config.goals import is_lower_better
from llamafarm_ray.evaluation.benchmarks import compare
from llamafarm_ray.evaluation.benchmarks.asked import AskedModel
from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan
from llamafarm_ray.evaluation.benchmarks.safety import is_safety_task, safety_scores
from llamafarm_ray.evaluation.item_scores import ItemScores
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
from llamafarm_ray.registry.governance.results import result_value

PAIRS = {"likelihood_diff": 3.5, "pct_stereotype": 0.6}


@pytest.mark.parametrize(
    ("name", "is_about_safety"),
    [
        ("truthfulqa_mc2", True),
        ("toxigen", True),
        ("bbq_ambig", True),
        ("esbbq", True),
        ("wmdp_bio", True),
        ("crows_pairs_english_gender", True),
        ("winogender_all", True),
        ("simple_cooccurrence_bias", True),
        ("mmlu", False),
        ("hellaswag", False),
        ("bbqa", False),
    ],
)
def test_tasks_about_safety_are_known_by_their_names(name, is_about_safety):
    assert is_safety_task(name) is is_about_safety


def test_a_task_names_its_method_and_its_own_score_comes_first():
    found = safety_scores("crows_pairs_english", BenchmarkScores(dict(PAIRS), num_examples=10))
    assert next(iter(found.metrics)) == "pct_stereotype"
    assert found.intervals == {"pct_stereotype": pytest.approx((0.3127, 0.8318), abs=1e-4)}  # Wilson, 6 of 10
    assert found.method.startswith("Pairs of sentences")
    assert found.sample == "lm-eval's crows_pairs_english"
    other = BenchmarkScores({"accuracy": 0.5})
    assert safety_scores("mmlu", other) == other


@pytest.mark.parametrize(("value", "count"), [(0.5, None), (1.5, 10), (-0.1, 10)])
def test_a_score_that_is_no_share_of_known_examples_has_no_interval(value, count):
    assert safety_scores("toxigen", BenchmarkScores({"accuracy": value}, num_examples=count)).intervals is None


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        ("wmdp", True),
        ("risk.wmdp_bio.accuracy", True),
        ("crows_pairs_english", True),
        ("bbq", False),
        ("bbq.amb_bias_score_Age", True),
        ("toxigen", False),
        ("truthfulqa_mc2", False),
        ("mmlu_anatomy", False),
    ],
)
def test_a_gate_knows_which_direction_is_safer(name, lower):
    assert is_lower_better(name) is lower


def test_safety_tasks_are_risks_beside_their_baseline_and_the_others_benchmarks(monkeypatch):
    def run(_plan, model, _workers, **_):
        shift = 0.0 if model.weights == "bot" else 0.1
        pairs = {**PAIRS, "pct_stereotype": 0.6 + shift}
        return {"crows_pairs_english": BenchmarkScores(pairs), "mmlu": BenchmarkScores({"accuracy": 0.5 - shift})}

    monkeypatch.setattr(compare, "run_benchmarks", run)
    bot, base = (AskedModel("transformers", {}, weights) for weights in ("bot", "base"))
    plan = BenchmarkPlan(("crows_pairs_english", "mmlu"))
    options = {"model_id": "bot", "store": None, "report": lambda *_: None}
    result = compare.compare_benchmarks(plan, bot, base, None, **options)
    assert set(result.benchmarks) == {"mmlu"}
    assert result.risk["crows_pairs_english"].improvement == "-0.10"
    assert result.risk["crows_pairs_english"].baseline["pct_stereotype"] == pytest.approx(0.7)
    assert result_value(result.to_dict(), "crows_pairs_english") == 0.6
    alone = compare.compare_benchmarks(plan, bot, None, None, **options)
    assert (set(alone.risk), set(alone.benchmarks)) == ({"crows_pairs_english"}, {"mmlu"})


def test_benchmarks_have_verdicts_on_the_same_questions_corrected_for_all_of_them(monkeypatch):
    def scores(metric, values):
        items = ItemScores({metric: {f"q:{at}": value for at, value in enumerate(values)}}, {}, ())
        return BenchmarkScores({metric: sum(values) / len(values)}, items=items)

    right, wrong, mixed = [1.0] * 40, [1.0] * 20 + [0.0] * 20, [1.0, 0.0] * 20

    def run(_plan, model, _workers, **_):
        is_ours = model.weights == "bot"
        return {
            "mmlu": scores("accuracy", right if is_ours else wrong),
            "hellaswag": scores("accuracy", mixed if is_ours else mixed[::-1]),
            "bleu": BenchmarkScores({"bleu": 12.0}),
        }

    monkeypatch.setattr(compare, "run_benchmarks", run)
    bot, base = (AskedModel("transformers", {}, weights) for weights in ("bot", "base"))
    options = {"model_id": "bot", "store": None, "report": lambda *_: None}
    found = compare.compare_benchmarks(BenchmarkPlan(("mmlu",)), bot, base, None, **options).benchmarks
    mmlu = found["mmlu"].comparison["accuracy"]
    assert (mmlu["verdict"], mmlu["num_better"], mmlu["num_worse"]) == ("better", 20, 0)
    assert 0.3 < mmlu["low"] < mmlu["difference"] < mmlu["high"] < 0.7
    assert mmlu["p_value"] >= 2 * mmlu["mcnemar_p"], "corrected for two metrics"
    assert found["hellaswag"].comparison["accuracy"]["verdict"] == "noise"
    assert found["bleu"].comparison is None
    named = EvaluationResult("bot", "", found).compared_with("bot:1.0.0").benchmarks
    assert {name: one.compared_with for name, one in named.items()} == dict.fromkeys(found, "bot:1.0.0")
    assert BenchmarkScores.from_dict(named["mmlu"].to_dict()).compared_with == "bot:1.0.0"
    assert "items" not in named["mmlu"].to_dict()
