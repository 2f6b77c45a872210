"""Intervals of a share: known values, and coverage where answers of one item agree."""

import numpy as np
import pytest

from llamafarm_ray.evaluation.comparison import rate_interval, wilson_interval


@pytest.mark.parametrize(
    ("share", "count", "ends"),
    [(0.0, 10, (0.0, 0.2775)), (1.0, 10, (0.7225, 1.0)), (0.5, 100, (0.4038, 0.5962)), (0.1, 40, (0.0396, 0.2305))],
)
def test_wilsons_interval_has_its_published_values(share, count, ends):
    assert wilson_interval(share, count) == pytest.approx(ends, abs=1e-4)


def test_a_share_of_none_or_all_still_has_an_interval_and_counts_each_cluster_once():
    assert rate_interval([0.0] * 40, list(range(40))) == pytest.approx(wilson_interval(0.0, 40))
    assert rate_interval([1.0] * 40, [at // 8 for at in range(40)]) == pytest.approx(wilson_interval(1.0, 5))
    assert rate_interval([1.0], ["a"])[0] < 0.3


def test_answers_that_agree_within_a_cluster_widen_the_interval():
    agreeing = [float(at // 10 % 2) for at in range(200)]
    low, high = rate_interval(agreeing, [at // 10 for at in range(200)])
    alone = rate_interval(agreeing, list(range(200)))
    assert high - low > 2.5 * (alone[1] - alone[0])


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_interval_holds_the_true_share_in_about_95_of_100_simulations(spread):
    rng = np.random.default_rng(1)
    clusters = [at // 5 for at in range(150)]
    held = 0
    for _ in range(400):
        shares = np.clip(0.3 + spread * rng.choice([-1, 1], size=30), 0, 1).repeat(5)
        low, high = rate_interval((rng.random(150) < shares).astype(float).tolist(), clusters)
        held += low <= 0.3 <= high
    assert 0.92 <= held / 400 <= 0.985
