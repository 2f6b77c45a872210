"""The evidence is what it says: exact likelihood ratios, and false alarms within the bound whenever one looks."""

from math import comb, log

import numpy as np
import pytest

from llamafarm_ray.serving.rollouts.ab import compare
from llamafarm_ray.serving.rollouts.sequential import ODDS, log_mixture, log_odds_evidence, log_rate_evidence
from llamafarm_ray.serving.telemetry.rollout_observations import Histogram, Moments, Sample


@pytest.mark.parametrize("odds_ratio", [1, 1.5])
@pytest.mark.parametrize(
    "counts", [(3, 10, 1, 20), (0, 10, 0, 20), (0, 0, 3, 5), (5, 5, 0, 0), (2, 7, 15, 15), (9, 100, 10, 1900)]
)
def test_the_odds_evidence_is_fishers_noncentral_hypergeometric_likelihood_ratio(counts, odds_ratio):
    count, trials, baseline_count, baseline_trials = counts
    total = count + baseline_count

    def likelihood(odds):
        weight = [
            comb(trials, k) * comb(baseline_trials, total - k) * odds**k
            for k in range(max(0, total - baseline_trials), min(total, trials) + 1)
        ]
        return weight[count - max(0, total - baseline_trials)] / sum(weight)

    expected = [log(likelihood(odds_ratio * odds) / likelihood(odds_ratio)) for odds in ODDS]
    assert log_odds_evidence(*counts, odds_ratio=odds_ratio) == pytest.approx(expected, abs=1e-9)


def test_the_rate_evidence_is_the_binomial_likelihood_ratio():
    rate = 0.05
    others = ODDS * rate / (1 - rate + ODDS * rate)
    expected = 7 * np.log(others / rate) + 43 * np.log((1 - others) / (1 - rate))
    assert log_rate_evidence(7, 50, rate=rate) == pytest.approx(expected)


def test_a_mixture_is_the_mean_of_the_likelihood_ratios():
    assert log_mixture(np.log([1.0, 2.0, 6.0])) == pytest.approx(log(3))
    assert log_mixture([1000.0, -1000.0]) == pytest.approx(1000 - log(2))


def largest_odds_evidence(rng, *, num_runs, rates, odds_ratio, share=0.2, windows=200, requests=50):
    """The largest mixture that each of many runs ever reaches, of all looks after each window."""
    trials = round(requests * share)
    rest = requests - trials
    table = np.array(
        [
            [log_odds_evidence(k, trials, kb, rest, odds_ratio=odds_ratio) for kb in range(rest + 1)]
            for k in range(trials + 1)
        ]
    )
    logs, largest = np.zeros((num_runs, len(ODDS))), np.full(num_runs, -np.inf)
    for window in range(windows):
        rate, baseline_rate = rates(window)
        logs += table[rng.binomial(trials, rate, num_runs), rng.binomial(rest, baseline_rate, num_runs)]
        largest = np.maximum(largest, np.logaddexp.reduce(logs, axis=1) - log(len(ODDS)))
    return largest


@pytest.mark.parametrize("alpha", [0.01, 0.1])
@pytest.mark.parametrize(
    "rates",
    [lambda _: (0.02, 0.02), lambda window: (0.5, 0.5) if window % 20 == 0 else (0.01, 0.01)],
    ids=["steady", "with outages that hit both"],
)
def test_equal_variants_raise_no_more_false_alarms_than_allowed(rates, alpha):
    largest = largest_odds_evidence(np.random.default_rng(0), num_runs=5000, rates=rates, odds_ratio=1)
    false = np.mean(largest >= -log(alpha))
    assert 0 < false <= alpha  # and it is no test that can't alarm


def test_a_candidate_at_the_edge_of_what_is_allowed_is_let_through():
    odds = 0.02 / 0.98 * 1.5
    rates = (odds / (1 + odds), 0.02)
    largest = largest_odds_evidence(np.random.default_rng(1), num_runs=5000, rates=lambda _: rates, odds_ratio=1.5)
    assert 0 < np.mean(largest >= log(10)) <= 0.1


def test_a_naive_test_would_fail_what_this_one_passes():
    """Looking at every window for two standard deviations finds a difference between equals nearly half of the time."""
    rng = np.random.default_rng(2)
    ours = np.cumsum(rng.binomial(25, 0.1, (2000, 200)), axis=1)
    theirs = np.cumsum(rng.binomial(25, 0.1, (2000, 200)), axis=1)
    trials = 25 * np.arange(1, 201)
    deviation = np.sqrt(2 * 0.1 * 0.9 / trials)
    assert np.mean(np.any((ours - theirs) / trials > 1.96 * deviation, axis=1)) > 0.1  # one side: 0.025 was meant


@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_a_mean_at_its_limit_raises_no_more_false_alarms_than_allowed(alpha):
    """Ratings of 0, 0.5 and 1 as well: not only what is binomial."""
    rng = np.random.default_rng(3)
    for draw in (lambda: rng.binomial(20, 0.3, 5000), lambda: rng.multinomial(20, [0.5, 0.4, 0.1], 5000) @ [0, 0.5, 1]):
        logs, largest = np.zeros((5000, len(ODDS))), np.full(5000, -np.inf)
        for _ in range(200):
            logs += draw()[:, None] * np.log(ODDS) + log_rate_evidence(0, 20, rate=0.3)
            largest = np.maximum(largest, np.logaddexp.reduce(logs, axis=1) - log(len(ODDS)))
        assert np.mean(largest >= -log(alpha)) <= alpha


MEASURED = {
    "feedback": lambda rng, size: rng.integers(0, 5, size) / 4,
    "error_rate": lambda rng, size: rng.random(size) < 0.005,
    "latency": lambda rng, size: rng.normal(-0.5, 0.6, size),
}


def sample(metric, num, total, squares):
    moments = Moments(num, total, squares)
    if metric == "error_rate":
        return Sample(requests=num, errors=int(total))
    if metric == "feedback":
        return Sample(ratings=moments)
    mean, deviation = moments.mean, moments.variance**0.5  # two buckets with this mean and deviation
    buckets = [next(iter(Histogram.of([np.exp(mean + sign * deviation)]).counts)) for sign in (-1, 1)]
    return Sample(latencies=Histogram(dict.fromkeys(buckets, num // 2)))


@pytest.mark.parametrize("metric", list(MEASURED))
def test_equal_variants_have_no_winner_more_often_than_allowed(metric):
    rng = np.random.default_rng(4)
    num_runs, looks, num = 400, 20, 200
    values = MEASURED[metric](rng, (2, num_runs, looks, num)).astype(float)
    totals, squares = np.cumsum(values.sum(-1), -1), np.cumsum((values**2).sum(-1), -1)

    def has_winner(run):
        for look in range(looks):
            ours, theirs = (
                sample(metric, num * (look + 1), totals[side, run, look], squares[side, run, look]) for side in (0, 1)
            )
            if compare(metric, theirs, ours, confidence=0.8).winner:
                return True
        return False

    false = np.mean([has_winner(run) for run in range(num_runs)])
    assert false <= 0.2
    assert false > 0 or metric == "error_rate"


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [
        ("feedback", Sample(ratings=Moments.of([1, 1, 1, 0] * 500)), Sample(ratings=Moments.of([1, 0] * 1000))),
        ("error_rate", Sample(requests=4000, errors=4), Sample(requests=4000, errors=200)),
        ("latency", Sample(latencies=Histogram.of([0.2] * 1000)), Sample(latencies=Histogram.of([0.4] * 1000))),
    ],
)
def test_the_better_variant_wins_whichever_it_is(metric, better, worse):
    found = compare(metric, worse, better, confidence=0.95)
    assert found.winner == "candidate"
    assert found.low < found.estimate < found.high
    assert compare(metric, better, worse, confidence=0.95).winner == "baseline"
    assert compare(metric, better, better, confidence=0.95).winner is None
    wide = compare(metric, worse, better, confidence=0.999)
    assert wide.low < found.low < found.high < wide.high


def test_a_histograms_quantile_is_off_by_its_growth_at_most():
    latencies = np.random.default_rng(5).lognormal(-1, 0.8, 4000)
    histogram = Histogram.of(latencies[:1000]) + Histogram.of(latencies[1000:])
    assert histogram.count == 4000
    for quantile in (0.5, 0.95, 0.99):
        assert histogram.quantile_s(quantile) == pytest.approx(np.quantile(latencies, quantile), rel=0.025)
    assert histogram.logarithms.mean == pytest.approx(np.log(latencies).mean(), abs=0.02)
    assert histogram.logarithms.variance == pytest.approx(np.log(latencies).var(), rel=0.02)
    assert histogram.count_above(histogram.bucket_of(0.95)) <= 200
    assert Histogram.of([0.0]).quantile_s(1) == pytest.approx(1e-4, rel=0.02)
    assert Histogram().quantile_s(0.95) == 0


def test_samples_add_up():
    one, two = (
        Sample(requests=n, errors=1, latencies=Histogram.of([n]), ratings=Moments.of([1, 0.5])) for n in (10, 30)
    )
    both = one + two
    assert (both.requests, both.errors, both.error_rate, both.latencies.count) == (40, 2, 0.05, 2)
    assert (both.ratings.mean, both.ratings.variance) == (0.75, 0.0625)
    assert (Sample().error_rate, Moments().mean, Moments().variance) == (0, 0, 0)


def rated(count, mean):
    """Ratings of 0 and 1 with about a mean."""
    good = round(count * mean)
    return Sample(requests=count, ratings=Moments(count, good, good))


def test_a_difference_that_is_noise_says_how_many_more_requests_would_decide_it():
    decided = compare("feedback", rated(2000, 0.5), rated(2000, 0.7), confidence=0.95)
    assert (decided.verdict, decided.more_needed) == ("better", None)
    assert compare("feedback", rated(2000, 0.7), rated(2000, 0.5), confidence=0.95).verdict == "worse"
    open_ = compare("feedback", rated(200, 0.5), rated(200, 0.55), confidence=0.95)
    assert open_.verdict == "noise"
    equal = compare("feedback", rated(200, 0.5), rated(200, 0.5), confidence=0.95)
    assert (equal.verdict, equal.more_needed) == ("noise", None)
    rng, num_each = np.random.default_rng(3), 200 + open_.more_needed // 2
    found = [
        compare(
            "feedback",
            rated(num_each, rng.binomial(num_each, 0.5) / num_each),
            rated(num_each, rng.binomial(num_each, 0.55) / num_each),
            confidence=0.95,
        ).verdict
        for _ in range(400)
    ]
    assert 0.74 < found.count("better") / 400 < 0.86, "four times in five"
