import re

from llamafarm_ray.evaluation import BenchmarkScores, EvaluationResult
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.report import ResultPage, write_report
from llamafarm_ray.evaluation.report.slices import slices, worst


def answered(name, score, baseline=None, prompt="Why?", **groups):
    return Answered("qa", name, prompt, ("right",), f"answer {name}", score, "", f"before {name}", baseline, groups)


ANSWERS = (
    answered("a", 1.0, 0.0, document="one.md", language="en"),
    answered("b", 0.0, 1.0, document="two.md", language="en"),
    answered("c", 0.0, 0.0, document="two.md", language="en", prompt="long " * 30),
    answered("d", None, 0.0, document="three.md"),
)


def test_slices_are_means_beside_the_baselines_the_lowest_first():
    found = [(one.kind, one.name, one.num_answers, one.score, one.baseline) for one in slices(ANSWERS)]
    assert found == [
        ("document", "two.md", 2, 0, 0.5),
        ("document", "one.md", 1, 1, 0),
        ("length", "100 to 400 characters", 1, 0, 0),
        ("length", "up to 100 characters", 2, 0.5, 0.5),
    ]


def test_what_the_baseline_answered_right_comes_first_among_equally_bad_answers():
    assert [one.id for one in worst(ANSWERS, 9)] == ["d", "b", "c"]
    assert [one.id for one in worst(ANSWERS, 1)] == ["d"]


def page():
    scores = BenchmarkScores({"accuracy": 0.25, "perplexity": 3.5}, "+0.05", {"accuracy": 0.2, "perplexity": 9.0}, 4, 1)
    hostile = answered("<script>alert(1)</script>", 0.0, prompt="<img src=x onerror=alert(1)>")
    return ResultPage(
        EvaluationResult(
            "bot:1.0.0",
            "2026-11-29T00:00:00Z",
            {"qa": scores},
            production_metrics={"error_rate": 0.01},
            answered=(*ANSWERS, hostile),
        )
    )


def test_the_page_needs_no_network_and_runs_no_script(tmp_path):
    write_report(tmp_path / "new" / "report.html", page())
    text = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<img|https?://|url\(", text)
    assert "default-src 'none'" in text
    for shown in ("bot:1.0.0", "accuracy", "0.25", "+0.05", "error_rate", "two.md", "answer b", "before b"):
        assert shown in text
    assert text.count("<svg") == 5  # accuracy and four slices; perplexity has no scale of its own


def test_the_page_says_what_a_difference_is_worth_and_with_what_it_was_compared():
    found = {"difference": 0.1, "low": -0.1, "high": 0.3, "verdict": "noise", "examples_needed": 1500}
    scores = BenchmarkScores(
        {"accuracy": 0.5, "perplexity": 3.5},
        "+0.10",
        {"accuracy": 0.4, "perplexity": 9.0},
        comparison={"accuracy": found, "log_perplexity": {"difference": -0.9, "verdict": "better"}},
        compared_with="bot:1.0.0",
    )
    text = ResultPage(EvaluationResult("bot:1.1.0", "2026-11-29T00:00:00Z", {"mmlu": scores})).html()
    assert "+0.100 (-0.100 to +0.300) noise; about 1,500 examples would decide it" in text
    assert "log -0.900 better" in text
    assert "over the baseline, bot:1.0.0" in text
