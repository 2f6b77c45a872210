import asyncio

import pytest
from fixed_latency import FixedLatency, serving

from llamafarm_ray.evaluation.load.client import Endpoint, drive
from llamafarm_ray.evaluation.load.outcomes import summarize
from llamafarm_ray.evaluation.load.traffic import Session, Turn


def question(text="Hello"):
    return ({"role": "user", "content": text},)


def session(at_s, *turns):
    return Session(at_s, turns or (Turn(question()),))


def send(endpoint, sessions, **options):
    stop = options.pop("stop", None)

    async def work():
        async with serving(endpoint) as served:
            return await drive(Endpoint(served.url, "bot", **options), sessions, stop=stop)

    return asyncio.run(work())


def test_slow_answers_hold_nothing_back():
    outcomes = send(FixedLatency(latency_s=0.2), [session(number / 200) for number in range(40)])
    first_done_s = min(one.done_s for one in outcomes)
    assert sum(one.sent_s < first_done_s for one in outcomes) > 1
    assert len(outcomes) == 40
    assert all(one.latency_s >= 0.2 for one in outcomes)
    assert [one.due_s for one in sorted(outcomes, key=lambda one: one.due_s)] == [number / 200 for number in range(40)]


def test_what_waits_in_a_stall_counts_from_its_scheduled_time():
    server = FixedLatency(latency_s=0.01, stall=(0.05, 0.55))
    outcomes = send(server, [session(0), session(0.15), session(0.35), session(0.6)])
    latencies = [one.latency_s for one in sorted(outcomes, key=lambda one: one.due_s)]
    for latency_s, least_s in zip(latencies, (0.01, 0.41, 0.21, 0.01), strict=True):
        assert latency_s >= least_s


def test_the_first_token_is_the_first_of_the_answer_and_never_before_its_time():
    # The stream begins at once, with an event that names the role alone.
    (streamed,) = send(FixedLatency(latency_s=0.1, first_s=0.05), [session(0)])
    assert 0.05 <= streamed.first_s - streamed.due_s <= streamed.latency_s
    assert streamed.num_tokens == 7
    (whole,) = send(FixedLatency(), [session(0)], is_streamed=False)
    assert (whole.first_s, whole.num_tokens, whole.model) == (None, 7, "bot:1.0.0#d")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("500", "HTTP 500"),
        ("cut", "the stream broke off"),
        ("error", "error inside the stream"),
        ("garbage", "no JSON"),
    ],
)
def test_a_failure_is_counted_by_its_kind_and_no_part_of_the_latencies(fault, kind):
    server = FixedLatency(fault=lambda number: fault if number == 0 else "")
    summary = summarize(send(server, [session(0), session(0.1)]), num_sessions=2)
    assert summary.failures == {kind: 1}
    assert (summary.error_rate, summary.task_completion_rate) == (0.5, 0.5)
    assert len(summary.latencies_s) == len(summary.first_tokens_s) == 1


def test_a_request_fails_its_time_after_it_was_due():
    (outcome,) = send(FixedLatency(fault=lambda _: "hang"), [session(0)], timeout_s=0.2)
    assert (outcome.failure, outcome.first_s) == ("timeout", None)
    assert outcome.done_s >= 0.2


def test_a_server_that_is_not_there_is_a_failure_of_each_request():
    async def work():
        return await drive(Endpoint("http://127.0.0.1:9/v1", "bot"), [session(0)])

    (outcome,) = asyncio.run(work())
    assert outcome.failure.startswith("connection: ")


def test_a_session_goes_on_with_its_answers_after_the_time_to_think():
    server = FixedLatency()
    outcomes = send(server, [session(0, Turn(question("One?"), 5), Turn(question("Two?"), 6, think_s=0.1))])
    assert [len(body["messages"]) for body in server.asked] == [1, 3]
    assert server.asked[1]["messages"][1] == {"role": "assistant", "content": "answer 0"}
    assert [body["max_tokens"] for body in server.asked] == [5, 6]
    assert outcomes[1].due_s == pytest.approx(outcomes[0].done_s + 0.1)
    assert outcomes[1].sent_s >= outcomes[1].due_s
    assert summarize(outcomes, num_sessions=1).task_completion_rate == 1


def test_a_session_ends_at_its_first_failure_and_is_not_completed():
    server = FixedLatency(fault=lambda number: "500" if number == 0 else "")
    outcomes = send(server, [session(0, Turn(question()), Turn(question()))])
    assert len(outcomes) == len(server.asked) == 1
    assert summarize(outcomes, num_sessions=1).task_completion_rate == 0


def test_an_empty_answer_is_no_failure_and_completes_nothing():
    summary = summarize(send(FixedLatency(fault=lambda _: "empty"), [session(0)]), num_sessions=1)
    assert (summary.error_rate, summary.task_completion_rate) == (0, 0)


def test_nothing_more_is_sent_once_it_is_stopped():
    outcomes = send(FixedLatency(), [session(0), session(3600)], stop=lambda _: True)
    assert len(outcomes) == 1
