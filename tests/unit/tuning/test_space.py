"""The search space: checked against the schema before anything starts, drawn from, and turned into configurations."""

import random

import pytest

from llamafarm_ray.config import Domain, parse_config, resolved
from llamafarm_ray.errors import ConfigError
from llamafarm_ray.tuning.space import Space, sample

RATE = "fine_tuning.training.learning_rate"
RANK = "fine_tuning.parameters.r"
METHOD = "fine_tuning.method"


def space(parameters, **config):
    return Space.of(parse_config({"tuning": {"parameters": parameters}, **config}))


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"fine_tuning.training.learning_rat": [1]}, "learning_rat: is no known key; did you mean learning_rate?"),
        ({RANK: {"uniform": [4, 8]}}, "r: takes whole numbers; use int."),
        (
            {"fine_tuning.training.batch_size": {"log_uniform": [2, 16]}},
            "batch_size: takes whole numbers; use log_int.",
        ),
        ({RANK: {"normal": [0, 8]}}, "r: must be values of a kind that exists (choice, grid,"),
        ({RANK: {"int": [0, 8]}}, "0 is no value of it"),
        ({RANK: {"int": [8, 1024]}}, "1024 is no value of it"),
        ({RATE: {"uniform": [0.1, 2]}}, "2 is no value of it"),
        ({METHOD: ["lora", "lorra"]}, "'lorra' is no value of it"),
        ({RATE: ["fast"]}, "'fast' is no value of it"),
        ({"deployment.port": [1, 2]}, "no training depends on it"),
        ({"evaluation.max_examples": [1, 2]}, "no training depends on it"),
        ({"fine_tuning.training": [1]}, "must be a mapping"),
        ({RANK: [8], "lora_r": [16]}, "which is given already"),
        ({"fine_tuning.parameters.rank_pattern.q_proj": [8, 0]}, "0 is no value of it"),
    ],
)
def test_a_key_or_value_that_does_not_exist_is_refused_with_what_to_do(parameters, problem):
    with pytest.raises(ConfigError) as caught:
        space(parameters)
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]
    assert caught.value.problems[0].startswith("tuning.parameters.")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"uniform": [3, 1]}, "lower end first"),
        ({"log_uniform": [0, 1]}, "above 0"),
        ({"uniform": [1]}, "two numbers"),
        ({"int": [1.5, 2]}, "two whole numbers"),
        ({"quniform": [0, 1, 2]}, "a step that fits"),
        ({"choice": []}, "with a list"),
        ([8, 8], "all different"),
        (8, "one kind of values"),
    ],
)
def test_values_in_another_form_are_refused(written, problem):
    with pytest.raises(ConfigError) as caught:
        parse_config({"tuning": {"parameters": {RANK: written}}})
    assert problem in str(caught.value)


def test_keys_may_be_dotted_nested_or_another_tools_and_mean_the_same():
    dotted = space({RATE: {"loguniform": [1e-5, 1e-3]}, RANK: [8, 16]})
    nested = space(
        {"fine_tuning": {"training": {"learning_rate": {"log_uniform": [1e-5, 1e-3]}}, "parameters": {"r": [8, 16]}}}
    )
    aliased = space({"learning_rate": {"log_uniform": [1e-5, 1e-3]}, "lora_r": {"choice": [8, 16]}})
    assert dict(dotted.domains) == dict(nested.domains) == dict(aliased.domains)


def test_a_sweep_is_written_out_and_read_back_equal():
    parameters = {RATE: {"log_uniform": [1e-5, 1e-3]}, "fine_tuning.parameters.target_modules": [["q_proj"], "auto"]}
    config = parse_config({"tuning": {"parameters": parameters, "budget": "30m"}})
    assert parse_config(resolved(config)) == config
    assert config.tuning.budget_s == 1800


@pytest.mark.parametrize(
    "written",
    [
        {"uniform": [0.1, 0.3]},
        {"log_uniform": [1e-5, 1e-3]},
        {"quniform": [0.0, 0.3, 0.1]},
        {"int": [1, 9]},
        {"log_int": [1, 64]},
        {"choice": ["a", "b"]},
        {"grid": [1, 2]},
    ],
    ids=lambda written: next(iter(written)),
)
def test_draws_lie_inside_reach_both_ends_and_follow_the_seed(written):
    domain = Domain.parse(written)
    draws = [sample(domain, random.Random(seed)) for seed in range(400)]
    assert draws == [sample(domain, random.Random(seed)) for seed in range(400)]
    if domain.is_list:
        assert set(draws) == set(domain.values)
        return
    low, high = domain.values[:2]
    assert all(low <= draw <= high for draw in draws)
    span = high / low if domain.kind.startswith("log") else high - low
    near = (lambda a, b: a / b < span**0.1) if domain.kind.startswith("log") else (lambda a, b: a - b < 0.1 * span)
    assert near(min(draws), low)
    assert near(high, max(draws))


def test_draws_in_the_logarithm_are_as_often_small_as_large():
    domain = Domain.parse({"log_uniform": [1e-5, 1e-3]})
    draws = [sample(domain, random.Random(seed)) for seed in range(600)]
    assert 0.4 < sum(draw < 1e-4 for draw in draws) / len(draws) < 0.6


def test_a_value_that_means_nothing_beside_the_method_is_left_out():
    found = space({RANK: [8, 16], METHOD: ["lora", "full"], RATE: [1e-4]})
    assert next(iter(found.domains)) == METHOD, "what decides about others comes first"
    lora = found.point({METHOD: "lora", RANK: 8, RATE: 1e-4})
    full = found.point({METHOD: "full", RANK: 8, RATE: 1e-4})
    assert lora.values == {METHOD: "lora", RANK: 8, RATE: 1e-4}
    assert lora.config.fine_tuning.parameters.r == 8
    assert full.values == {METHOD: "full", RATE: 1e-4}
    assert full.config.fine_tuning.method == "full"


def test_values_that_break_a_rule_are_told_with_the_rule():
    found = space({METHOD: ["prefix_tuning"], "fine_tuning.training.gradient_checkpointing": [True]})
    point = found.point({METHOD: "prefix_tuning", "fine_tuning.training.gradient_checkpointing": True})
    assert point.config is None
    assert "can't be true with fine_tuning.method prefix_tuning" in point.problem


def test_a_trial_keeps_what_the_user_set_and_has_no_sweep_of_its_own():
    config = parse_config({"name": "bot", "fine_tuning": {"method": "lora"}, "tuning": {"parameters": {RANK: [8]}}})
    made = Space.of(config).point({RANK: 8}).config
    assert (made.name, made.fine_tuning.method, dict(made.tuning.parameters)) == ("bot", "lora", {})


def test_a_grid_is_every_combination_and_refuses_ranges_without_steps():
    found = space({RANK: [8, 16], "fine_tuning.training.weight_decay": {"quniform": [0.0, 0.2, 0.1]}})
    assert found.num_points() == 6
    assert len({tuple(point.items()) for point in found.grid()}) == 6
    with pytest.raises(ConfigError, match="use search: random"):
        space({RATE: {"uniform": [0.1, 0.2]}}).grid()
