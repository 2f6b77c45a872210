import json

import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation import BenchmarkScores, EvaluationResult
from llamafarm_ray.evaluation.comparison import PairedScores
from llamafarm_ray.evaluation.result import improvement

PUBLISHED = {
    "evaluation_results": {
        "model_id": "medical_qa_v1.2.0",
        "timestamp": "2024-01-15T10:30:00Z",
        "benchmarks": {
            "mmlu": {"accuracy": 0.72, "improvement": "+0.05"},
            "hellaswag": {"accuracy": 0.68, "improvement": "+0.02"},
            "medical_qa": {"accuracy": 0.89, "improvement": "+0.12"},
        },
        "rag_integration": {"retrieval_relevance": 0.85, "response_quality": 0.88, "latency_p95": "150ms"},
        "production_metrics": {"user_satisfaction": 4.2, "task_completion_rate": 0.91, "error_rate": 0.03},
    }
}


def test_the_published_example_is_read_and_written_unchanged():
    result = EvaluationResult.from_dict(json.loads(json.dumps(PUBLISHED)))
    assert result.benchmarks["mmlu"] == BenchmarkScores({"accuracy": 0.72}, improvement="+0.05")
    assert result.to_dict() == PUBLISHED


def test_a_result_with_a_baseline_survives_the_round_trip():
    scores = BenchmarkScores({"perplexity": 3.2, "bleu": 41.0}, "-97.1%", {"perplexity": 110.3, "bleu": 0.1}, 20, 1)
    result = EvaluationResult("bot:1.0.0", "2026-11-22T00:00:00Z", {"held_out": scores})
    assert EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert "rag_integration" not in result.to_dict()["evaluation_results"]


def test_differences_of_a_run_are_corrected_for_all_of_them():
    pairs = {"accuracy": PairedScores([1.0] * 6, [0.0] * 6, [f"{at}.md" for at in range(6)])}
    better = BenchmarkScores({"accuracy": 1.0}).compared(pairs)
    mmlu = EvaluationResult("bot", "t", {"mmlu": better}).corrected()
    alone = mmlu.benchmarks["mmlu"].comparison["accuracy"]
    assert alone["verdict"] == "better"
    risks = EvaluationResult("bot", "t", {}, risk={"robustness": better}, judge={"mmlu": better}).corrected()
    both = mmlu.with_results(risks)
    found = [scores.comparison["accuracy"] for _, scores in both.scores()]
    assert [one["verdict"] for one in found] == ["noise"] * 3
    assert [one["p_value"] for one in found] == pytest.approx([3 * alone["p_value"]] * 3)
    stored = EvaluationResult.from_dict(mmlu.to_dict())  # of another run, with its own correction
    assert stored.with_results(EvaluationResult("bot", "t", {"qa": better}).corrected()).benchmarks["mmlu"].comparison[
        "accuracy"
    ] == pytest.approx(alone)


@pytest.mark.parametrize("data", [{}, {"evaluation_results": []}, {"evaluation_results": {"model_id": "a"}}])
def test_another_shape_is_refused(data):
    with pytest.raises(InputError, match="no evaluation result"):
        EvaluationResult.from_dict(data)


@pytest.mark.parametrize(
    ("metric", "value", "baseline", "expected"),
    [
        ("perplexity", 3.2, 110.3, "-97.1%"),
        ("perplexity", 12.0, 10.0, "+20.0%"),
        ("accuracy", 0.72, 0.67, "+0.05"),
        ("bleu", 12.0, 14.5, "-2.50"),
    ],
)
def test_the_sign_says_whether_the_number_rose(metric, value, baseline, expected):
    assert improvement(metric, value, baseline) == expected


def test_a_baseline_without_a_score_that_is_a_number_leaves_the_models_own():
    scores = BenchmarkScores({"perplexity": 1.2, "bleu": 3.0})
    assert scores.beside(BenchmarkScores({})).metrics == scores.metrics
    assert scores.beside(BenchmarkScores({})).improvement is None
    assert scores.beside(BenchmarkScores({"bleu": 2.0})).improvement == "+1.00"
