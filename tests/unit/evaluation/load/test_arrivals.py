import itertools
import random
import statistics

import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.load.arrivals import PATTERNS, arrivals


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_has_the_mean_rate_and_is_the_same_for_the_same_seed(pattern):
    times = arrivals(pattern, 50, 60, random.Random(3))
    assert times == arrivals(pattern, 50, 60, random.Random(3))
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 60
    assert len(times) == pytest.approx(3000, rel=0.06)


def test_gaps_of_a_poisson_process_are_exponential():
    times = arrivals("poisson", 100, 60, random.Random(5))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert statistics.mean(gaps) == pytest.approx(0.01, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.01, rel=0.07)


def test_a_constant_rate_has_equal_gaps():
    assert arrivals("constant", 4, 1, random.Random(0)) == [0, 0.25, 0.5, 0.75]


def test_half_of_the_bursty_traffic_comes_in_a_tenth_of_the_time():
    times = arrivals("bursts", 100, 60, random.Random(7))
    within = [at_s for at_s in times if 4.5 <= at_s % 10 < 5.5]
    assert len(within) / len(times) == pytest.approx(0.5, abs=0.04)


def test_the_middle_of_a_day_has_most_traffic_and_its_ends_have_least():
    times = arrivals("daily", 100, 60, random.Random(7))
    noon = sum(27 <= at_s < 33 for at_s in times) / 6
    night = sum(at_s < 3 or at_s >= 57 for at_s in times) / 6
    assert noon == pytest.approx(179, rel=0.12)
    assert night == pytest.approx(22, rel=0.4)


@pytest.mark.parametrize(
    ("pattern", "rate", "length_s", "named"),
    [
        ("poison", 1, 1, "Did you mean poisson"),
        ("poisson", 0, 1, "rate must be greater than 0"),
        ("poisson", float("nan"), 1, "rate must be greater than 0"),
        ("poisson", 1, -1, "duration must be greater than 0"),
        ("poisson", 1e6, 3600, "more than 2,000,000 requests"),
    ],
)
def test_an_impossible_schedule_is_refused(pattern, rate, length_s, named):
    with pytest.raises(InputError, match=named):
        arrivals(pattern, rate, length_s, random.Random(0))
