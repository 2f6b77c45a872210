import math

import pytest

from llamafarm_ray.evaluation.metrics import calibration_error, percentile, tokens_per_second


def test_calibration_error_worked_by_hand():
    # Bin (0.8, 0.9]: said 0.9 twice, right once: 0.4 off. Bin (0.2, 0.3]: said 0.3, wrong: 0.3 off.
    assert calibration_error([0.9, 0.9, 0.3], [True, False, False]) == pytest.approx((2 * 0.4 + 0.3) / 3)


def test_a_border_belongs_to_the_bin_below_it():
    assert calibration_error([0.7, 0.65], [True, False]) == pytest.approx(abs(0.7 + 0.65 - 1) / 2)


def test_perfect_and_worst_calibration():
    assert calibration_error([1, 0], [True, False]) == 0
    assert calibration_error([1, 0], [False, True]) == 1


def test_confidences_that_are_none_are_left_out():
    assert calibration_error([math.nan, 2, 1], [True, True, True]) == 0
    assert calibration_error([], []) is None
    assert calibration_error([math.nan], [True]) is None


def test_percentiles():
    assert percentile([4, 1, 3, 2], 50) == 2.5
    assert percentile(range(101), 95) == 95
    assert (percentile([7], 99), percentile([], 50), percentile([math.nan], 50)) == (7, None, None)


def test_speed():
    assert tokens_per_second(30, 1.5) == 20
    assert tokens_per_second(30, 0) is None
