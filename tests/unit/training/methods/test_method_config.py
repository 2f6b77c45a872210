"""Each method's parameters in a configuration: what is accepted, and what is refused in words."""

import pytest

from llamafarm_ray.config import load_config, parse_config, resolved
from llamafarm_ray.errors import ConfigError


def problem(**fine_tuning):
    with pytest.raises(ConfigError) as caught:
        parse_config({"fine_tuning": fine_tuning})
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("lora", {"rank_pattern": {"down_proj": 32, r"layers\.\d+\.mlp\..*": 8}, "alpha_pattern": {"q_proj": 64}}),
        ("adapter", {"adapter_type": "pfeiffer", "reduction_factor": 8, "non_linearity": "gelu"}),
        ("adapter", {"bottleneck_dim": 24, "adapter_dropout": 0.1, "adapter_scale": 2}),
        ("prefix_tuning", {"num_virtual_tokens": 30, "prefix_projection": True, "encoder_hidden_size": 128}),
        ("hybrid_lora_adapter", {"r": 8, "adapter_type": "houlsby"}),
    ],
)
def test_parameters_of_a_method_are_kept_and_read_back(method, parameters):
    config = parse_config({"fine_tuning": {"method": method, "parameters": parameters}})
    written = resolved(config)
    assert {key: written["fine_tuning"]["parameters"][key] for key in parameters} == parameters
    assert parse_config(written) == config


def test_a_pattern_can_be_set_on_the_command_line(tmp_path):
    (tmp_path / "c.yaml").write_text("fine_tuning: {method: lora}")
    config = load_config(tmp_path / "c.yaml", ["fine_tuning.parameters.rank_pattern.q_proj=8"])
    assert config.fine_tuning.parameters.rank_pattern == {"q_proj": 8}


def test_parameters_of_other_methods_are_refused():
    for method, parameters in (
        ("lora", {"adapter_type": "houlsby"}),
        ("auto", {"num_virtual_tokens": 10}),
        ("prefix_tuning", {"r": 8}),
        ("adapter", {"rank_pattern": {"q_proj": 8}}),
        ("full", {"bottleneck_dim": 8}),
    ):
        key = next(iter(parameters))
        assert f"parameters.{key}: has no effect with fine_tuning.method {method}" in problem(
            method=method, parameters=parameters
        )


def test_what_contradicts_itself_is_refused():
    both = problem(method="adapter", parameters={"bottleneck_dim": 8, "reduction_factor": 4})
    assert "reduction_factor: is set beside" in both
    width = problem(method="prefix_tuning", parameters={"encoder_hidden_size": 8})
    assert "encoder_hidden_size: has no effect unless" in width
    checkpointing = problem(method="prefix_tuning", training={"gradient_checkpointing": True})
    assert "gradient_checkpointing: can't be true with fine_tuning.method prefix_tuning" in checkpointing
    switching = problem(intent={"task_switching": "static"})
    assert "task_switching: has no effect with fine_tuning.intent.goal balanced" in switching
    for_auto = problem(method="lora", intent={"goal": "quality"})
    assert "intent.goal: has no effect with fine_tuning.method lora" in for_auto


def test_ranks_have_the_same_bounds_in_patterns():
    assert "at most 512" in problem(method="lora", parameters={"rank_pattern": {"q_proj": 513}})
    assert "at least 1" in problem(method="lora", parameters={"alpha_pattern": {"q_proj": 0}})


def test_every_method_of_the_schema_can_be_trained():
    from typing import get_args

    from llamafarm_ray.config.sections.fine_tuning import Method
    from llamafarm_ray.training.methods import METHODS

    assert set(get_args(Method)) == {"auto", *METHODS}
