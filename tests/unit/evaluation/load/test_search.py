import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.load.outcomes import Outcome, summarize
from llamafarm_ray.evaluation.load.search import Limits, find_capacity
from llamafarm_ray.evaluation.load.targets import parse_targets


class Server:
    """Answers in 0.1 s up to a rate, and in 5 s above it; the time of its clock is the probes'."""

    def __init__(self, capacity, failing=0.0):
        self.capacity, self.failing, self.now_s, self.rates = capacity, failing, 0.0, []

    def probe(self, rate, length_s):
        self.rates.append(rate)
        self.now_s += length_s
        latency_s = 0.1 if rate <= self.capacity else 5.0
        num = max(1, min(200, round(rate * length_s)))
        num_failed = round(num * self.failing)
        outcomes = [
            Outcome(n, 1.0, 1.0, 1.0 + latency_s / 2, 1.0 + latency_s, 4, "HTTP 503" if n < num_failed else "")
            for n in range(num)
        ]
        return summarize(outcomes, num_sessions=num)

    def find(self, *targets, start_rate=1.0, **limits):
        return find_capacity(
            self.probe,
            parse_targets(targets),
            start_rate=start_rate,
            limits=Limits(**limits),
            clock=lambda: self.now_s,
        )


@pytest.mark.parametrize("start_rate", [1.0, 37.0, 900.0])
def test_the_highest_rate_is_found_from_either_side(start_rate):
    found = Server(37.0).find("p95<800ms", start_rate=start_rate)
    assert found.highest_rate <= 37 < found.failed_at
    assert found.failed_at / found.highest_rate < 1.1
    assert found.ended_because == "the rate is known"


def test_the_search_ends_with_its_time_and_says_so():
    server = Server(500.0)
    found = server.find("p95<800ms", budget_s=60, duration_s=15)
    assert found.ended_because == "the time is over"
    assert server.now_s <= 60
    assert found.highest_rate == max(server.rates)
    assert found.failed_at is None


def test_nothing_outside_of_the_limits_is_tried():
    server = Server(1e9)
    assert server.find("p95<800ms", max_rate=12.0).highest_rate == 12
    assert max(server.rates) == 12
    slow = Server(0.0)
    found = slow.find("p95<800ms", min_rate=0.5)
    assert (found.highest_rate, found.failed_at, min(slow.rates)) == (None, 0.5, 0.5)


def test_a_low_rate_is_watched_until_its_percentile_means_something():
    server = Server(0.5)
    found = server.find("p95<800ms", start_rate=0.5, max_rate=0.5, duration_s=1)
    assert found.probes[0].duration_s == pytest.approx(120)  # 60 requests: 3 beyond the 95th percentile


def test_a_server_that_refuses_most_requests_does_not_keep_its_latency():
    found = Server(1e9, failing=0.5).find("p95<800ms", max_rate=4.0)
    assert found.highest_rate is None
    assert found.probes[0].values == {"p95<800ms": None}
    assert Server(1e9, failing=0.01).find("p95<800ms, error_rate<2%", max_rate=4.0).highest_rate == 4


@pytest.mark.parametrize(
    ("text", "measure", "quantile", "limit"),
    [
        ("p95<800ms", "latency", 0.95, 0.8),
        ("latency_p99.9 <= 2s", "latency", 0.999, 2.0),
        ("ttft_p50<250ms", "ttft", 0.5, 0.25),
        ("error_rate<1%", "error_rate", 0.0, 0.01),
        ("error_rate<=0", "error_rate", 0.0, 0.0),
    ],
)
def test_objectives_are_read(text, measure, quantile, limit):
    (target,) = parse_targets([text])
    assert (target.measure, target.quantile, target.limit) == (measure, pytest.approx(quantile), pytest.approx(limit))
    assert target.is_strict == ("<=" not in text)


@pytest.mark.parametrize("text", ["p95", "p95>800ms", "p95<800", "p0<1s", "p95<0ms", "mean<1s", "error_rate<200%", ""])
def test_an_objective_that_means_nothing_is_refused(text):
    with pytest.raises(InputError, match="is no objective"):
        parse_targets([text])
