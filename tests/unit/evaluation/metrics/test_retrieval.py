import math

import pytest

from llamafarm_ray.evaluation.metrics import hit_rate, ndcg, reciprocal_rank


def test_hit_rate_looks_at_the_first_results_alone():
    ranking = [False, False, True]
    assert (hit_rate(ranking), hit_rate(ranking, 2), hit_rate([])) == (1, 0, 0)


def test_the_reciprocal_rank_is_that_of_the_first_relevant_result():
    assert reciprocal_rank([False, True, True]) == 0.5
    assert (reciprocal_rank([False, True], 1), reciprocal_rank([])) == (0, 0)


def test_ndcg_of_a_ranking_worked_by_hand():
    # https://en.wikipedia.org/wiki/Discounted_cumulative_gain: 6.861 / 8.740 with two more documents of gain 3 and 2.
    gains = [3, 2, 3, 0, 1, 2]
    assert ndcg(gains, [*gains, 3, 2], k=6) == pytest.approx(6.861 / 8.740, abs=1e-4)


def test_ndcg_of_flags():
    assert ndcg([False, True]) == pytest.approx(1 / math.log2(3))
    assert ndcg([True, False]) == ndcg([True, True]) == 1
    assert (ndcg([False, False]), ndcg([])) == (0, 0)
