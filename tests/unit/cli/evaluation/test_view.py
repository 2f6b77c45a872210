"""The table of an evaluation: scores, differences and what they are worth."""

from llamafarm_ray.cli import terminal
from llamafarm_ray.cli.evaluation.view import show_evaluation
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult

NOISE = {"difference": 0.05, "low": -0.02, "high": 0.12, "verdict": "noise", "examples_needed": 380}
BETTER = {"difference": -0.5, "low": -0.7, "high": -0.3, "verdict": "better"}


def test_a_difference_is_shown_with_its_interval_verdict_and_what_would_decide_it(capsys, monkeypatch):
    monkeypatch.setattr(terminal.console, "_width", 160)
    benchmarks = {
        "closed_book": BenchmarkScores(
            {"accuracy": 0.45, "f1": 0.5}, baseline={"accuracy": 0.4}, num_examples=40, comparison={"accuracy": NOISE}
        ),
        "held_out": BenchmarkScores({"perplexity": 3.2}, comparison={"log_perplexity": BETTER}),
    }
    rag = {"retrieval_relevance": 0.85, "latency_p95": "150ms"}
    show_evaluation(EvaluationResult("bot:1.0.0", "2026-01-01T00:00:00Z", benchmarks, rag_integration=rag))
    shown = capsys.readouterr().out
    assert "+0.050 (-0.020 to +0.120) noise; about 380 examples would decide it" in shown
    assert "log -0.500 (-0.700 to -0.300) better" in shown
    assert "150ms" in shown
