"""An estimate counts the blocks that `train` adapts."""

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.workflows.training import estimate


@pytest.mark.parametrize(
    ("gpu", "passes", "layers"), [(None, 8, tuple(range(10, 32))), (None, 1, "auto"), ("l4", 8, "auto")]
)
def test_on_a_cpu_the_upper_blocks_are_estimated_where_the_base_model_asked(monkeypatch, gpu, passes, layers):
    monkeypatch.setattr(estimate, "_count_rows", lambda _: (100, passes))
    config = parse_config({"base_model": "7b", "fine_tuning": {"method": "lora"}})
    found = estimate.estimate_run(config, lambda: pytest.fail("a size is in no registry"), gpu=gpu)
    assert found.setup.parameters.layers_to_transform == layers
    is_told = any("The 22 upper of 32 blocks are adapted" in note for note in found.notes)
    assert is_told == (layers != "auto")
