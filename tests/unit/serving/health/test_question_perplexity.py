"""Sampled questions beside those of the reference, by the base model's losses."""

import math

import numpy as np
import pytest

from llamafarm_ray.serving.health.perplexity import compare_losses


def test_ranks_worked_by_hand():
    # Pairs in which the later one is greater: (3, 1), (3, 2), (4, 1), (4, 2); of the equal pair (2, 2) a half.
    found = compare_losses([1.0, 2.0], [2.0, 3.0])
    assert found.superiority == (0.5 + 1 + 1 + 1) / 4
    assert (found.reference, found.later) == (math.exp(1.5), math.exp(2.5))
    assert (found.num_reference, found.num_later) == (2, 2)
    assert compare_losses([1.0, 2.0], [1.0, 2.0]).superiority == 0.5


def test_alike_questions_are_seldom_called_different_and_others_are_found():
    rng = np.random.default_rng(0)
    p_values = [
        compare_losses(list(rng.normal(1, 1, 40)), list(rng.normal(1, 1, 30)), seed=seed).p_value for seed in range(60)
    ]
    assert sum(one < 0.05 for one in p_values) <= 7
    found = compare_losses(list(rng.normal(1, 1, 100)), list(rng.normal(2, 1, 100)))
    assert found.p_value < 0.001
    assert found.superiority == pytest.approx(0.76, abs=0.06), "one standard deviation"


def test_too_few_questions_have_no_p_value():
    assert compare_losses([], [1.0]).superiority is None
    assert compare_losses([], [1.0]).reference is None
    assert compare_losses([1.0], [2.0, 3.0]).p_value is None
