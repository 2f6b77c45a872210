"""A judge behind an endpoint that fails in every way: failures are counted, and no other score changes."""

import json

import pytest
from chat_server import chat_server

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
from llamafarm_ray.workflows.evaluation.judge import JudgePlan

ANSWERED = tuple(
    Answered("mine", str(at), f"Question {at}?", ("right",), "right", 1.0, "", "wrong", 0.0) for at in range(4)
)
RESULT = EvaluationResult("bot", "t", {"mine": BenchmarkScores({"accuracy": 1.0})}, answered=ANSWERED)


def fair(body):
    """Prefer the right answer wherever it stands, and rate it 5."""
    shown = json.loads(body["messages"][1]["content"])
    if "answer" in shown:
        return json.dumps({"reason": "r", "rating": 5 if shown["answer"] == "right" else 1})
    return json.dumps({"reason": "r", "better": "first" if shown["first"] == "right" else "second"})


def judge(url, home, rows=None, *, result=RESULT, max_attempts=3, **settings):
    endpoint = {"base_url": url, "max_attempts": max_attempts, "timeout_s": 5.0, **settings.pop("endpoint", {})}
    config = parse_config({"evaluation": {"judge": {"model": "gpt", "endpoint": endpoint, **settings}}})
    return JudgePlan.of(config, str(home), rows or {}).judge_result(result, first_wait_s=0.001)


def test_a_fair_judge_finds_the_better_answer_with_temperature_zero(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with chat_server(fair) as server:
        found = judge(server.url, tmp_path)
    scores = found.judge["mine"]
    assert scores.metrics["win_rate"] == scores.metrics["position_consistency"] == 1
    assert (scores.metrics["rating"], scores.baseline["rating"]) == (5, 1)
    assert scores.method == "Judge gpt, pairwise with positions swapped and rubric 1 to 5, temperature 0."
    assert scores.failures is None
    assert found.benchmarks == RESULT.benchmarks
    assert {body["temperature"] for body in server.asked} == {0}
    assert {body["response_format"]["json_schema"]["name"] for body in server.asked} == {"better", "rating"}
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert EvaluationResult.from_dict(found.to_dict()).judge == found.judge


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "not json", "garbage", "length"])
def test_a_failure_that_passes_costs_no_verdict(tmp_path, fault):
    with chat_server(fair, lambda attempt, body: fault if not attempt and len(body["messages"]) == 2 else "") as server:
        scores = judge(server.url, tmp_path).judge["mine"]
    assert scores.metrics["win_rate"] == 1
    assert scores.failures is None


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("500", "no answer: HTTP 500"),
        ("cut", "no answer: RemoteProtocolError"),
        ("not json", "no answer: an answer that is no chat completion"),
        ("garbage", "verdict is not the JSON that was asked for"),
        ("400", "request refused: HTTP 400"),
    ],
)
def test_a_failure_that_stays_is_named_and_takes_its_questions_out(tmp_path, fault, named):
    def faults(_attempt, body):
        return fault if "Question 1?" in body["messages"][1]["content"] else ""

    with chat_server(fair, faults) as server:
        found = judge(server.url, tmp_path)
    scores = found.judge["mine"]
    assert scores.failures == {named: 4}
    assert scores.metrics["win_rate"] == 1
    assert (scores.num_examples, scores.num_skipped) == (3, 1)
    assert found.benchmarks == RESULT.benchmarks


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("401", "key not accepted"),
        ("404", "no such model or path"),
        ("429 insufficient_quota", "limit of cost or credit reached"),
    ],
)
def test_after_a_failure_that_all_share_the_rest_is_not_sent(tmp_path, fault, named):
    with chat_server(fair, lambda *_: fault) as server:
        found = judge(server.url, tmp_path, endpoint={"concurrency": 1})
    scores = found.judge["mine"]
    assert (scores.metrics, scores.failures) == ({}, {named: 16})
    assert scores.reason == "the judge gave no verdict"
    assert len(server.asked) == 1
    assert found.benchmarks == RESULT.benchmarks


def test_the_limit_of_cost_ends_the_asking_and_leaves_what_was_judged(tmp_path):
    prices = {"input_usd_per_million_tokens": 0.0, "output_usd_per_million_tokens": 1e6, "max_output_tokens": 25}
    with chat_server(fair) as server:
        found = judge(server.url, tmp_path, endpoint={**prices, "max_cost_usd": 100.0, "concurrency": 1})
    assert found.judge["mine"].failures == {"limit of cost or credit reached": 16 - len(server.asked)}
    assert 0 < len(server.asked) < 16


def test_verdicts_are_asked_for_once(tmp_path):
    with chat_server(fair) as server:
        first = judge(server.url, tmp_path)
        asked = len(server.asked)
        assert judge(server.url, tmp_path) == first
        assert len(server.asked) == asked == 16


def test_a_server_that_takes_no_temperature_is_said_so(tmp_path):
    def faults(_attempt, body):
        return "400 temperature is not supported" if "temperature" in body else ""

    with chat_server(fair, faults) as server:
        scores = judge(server.url, tmp_path).judge["mine"]
    assert scores.metrics["win_rate"] == 1
    assert scores.method.endswith("the server's own temperature.")


def test_the_agreement_with_labels_is_a_score_of_the_judge(tmp_path):
    row = {"human_labels": [{"answer": text, "good": text == "right"} for text in ("right", "wrong")] * 5}
    with chat_server(fair) as server:
        scores = judge(server.url, tmp_path, {"mine": [("Q?", (), row)]}).judge["mine"]
    assert scores.metrics["rating_kappa"] == 1
    assert scores.sample == "mine (4 answers, 10 labels)"


def test_a_judge_without_a_server_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match="no endpoint is configured"):
        JudgePlan.of(parse_config({"evaluation": {"judge": {"model": "gpt"}}}), str(tmp_path), {})
    assert JudgePlan.of(parse_config({}), str(tmp_path), {}) is None
