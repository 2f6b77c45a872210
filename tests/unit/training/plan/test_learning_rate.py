"""Learning rates that the configuration leaves open."""

import pytest

from llamafarm_ray.training.plan.learning_rate import choose_learning_rate


def rate(configured="auto", *, method="lora", objective="sft", hidden_size=4096):
    return choose_learning_rate(configured, method=method, objective=objective, hidden_size=hidden_size)


def test_a_rate_that_is_set_is_kept():
    assert rate(3e-5, hidden_size=64) == 3e-5


@pytest.mark.parametrize(("hidden_size", "expected"), [(4096, 2.9e-4), (2000, 5e-4), (2048, 4.9e-4), (None, 5e-4)])
def test_added_weights_learn_by_the_models_width(hidden_size, expected):
    assert rate(hidden_size=hidden_size) == expected


def test_all_weights_learn_at_a_tenth_of_the_rate_of_added_ones():
    assert rate(method="full") == pytest.approx(rate(method="qlora") / 10, rel=0.05)


def test_narrow_models_have_a_highest_rate():
    assert rate(hidden_size=576) == 1.3e-3
    assert rate(hidden_size=256) == rate(hidden_size=16) == 1.6e-3


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_preferences_are_learned_slowly(objective):
    assert rate(objective=objective) == pytest.approx(rate() / 20, rel=0.05)
    assert rate(objective=objective, hidden_size=576) == 6.6e-5


def test_rows_that_are_seen_once_are_learned_at_a_higher_rate():
    at_once = {"objective": "sft", "hidden_size": 1000, "passes": 8}
    assert choose_learning_rate("auto", method="lora", **at_once) == pytest.approx(
        1.25 * rate(hidden_size=1000), rel=0.05
    )
    assert choose_learning_rate("auto", method="full", **at_once) == rate(method="full", hidden_size=1000)
    assert choose_learning_rate(1e-5, method="lora", **at_once) == 1e-5
