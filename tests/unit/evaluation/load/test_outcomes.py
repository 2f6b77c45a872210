import json

import pytest

from llamafarm_ray.evaluation.load.outcomes import Outcome, percentile, summarize
from llamafarm_ray.evaluation.load.result import Satisfaction, SimulationResult, production_metrics


def outcome(latency_s=1.0, failure="", **changes):
    values = {"session": 0, "due_s": 2.0, "sent_s": 2.0, "first_s": 2.1, "num_tokens": 3} | changes
    return Outcome(done_s=values["due_s"] + latency_s, failure=failure, **values)


def test_a_percentile_is_a_value_that_was_measured():
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([1, 2, 3], 0.5) == 2
    assert percentile([4], 0.99) == 4
    assert percentile([], 0.5) is None


def test_latencies_count_from_the_scheduled_time_however_late_the_client_was():
    late = outcome(1.0, due_s=2.0, sent_s=2.9, first_s=2.95)
    summary = summarize([late], num_sessions=1)
    assert summary.latencies_s == [1.0]
    assert summary.first_tokens_s == pytest.approx([0.95])
    assert summary.client_lag_s == pytest.approx(0.9)
    assert summary.is_client_late
    assert not summarize([outcome()], num_sessions=1).is_client_late


def test_the_seeds_figures_are_there_with_latencies_of_answers_alone():
    outcomes = [outcome(0.1, session=number) for number in range(19)]
    outcomes.append(outcome(60.0, "timeout", session=19, first_s=None, num_tokens=0))
    metrics = production_metrics(summarize(outcomes, num_sessions=20), Satisfaction(4.2, 5))
    assert metrics == {
        "user_satisfaction": 4.2,
        "num_ratings": 5,
        "task_completion_rate": 0.95,
        "error_rate": 0.05,
        "latency_p95": "100ms",
        "latency_p95_s": pytest.approx(0.1),
        "time_to_first_token_p95_s": pytest.approx(0.1),
    }


def test_nothing_answered_gives_no_latency_and_no_nan():
    summary = summarize([outcome(9.0, "timeout", first_s=None)], num_sessions=1)
    result = SimulationResult("bot", "http://127.0.0.1/v1", {}, summary)
    written = json.dumps(result.to_dict(), allow_nan=False)
    assert "latency_s" not in json.loads(written)["simulation"]
    assert production_metrics(summary) == {"task_completion_rate": 0, "error_rate": 1}


def test_no_request_at_all_is_no_success():
    summary = summarize([], num_sessions=1)
    assert (summary.error_rate, summary.task_completion_rate) == (1, 0)
    json.dumps(summary.to_dict(), allow_nan=False)
