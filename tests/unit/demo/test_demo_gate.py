"""The demo lets `production` point only at versions that were measured, and are better than the base."""

import sys
from pathlib import Path

import pytest

from llamafarm_ray.errors import PolicyError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "jobs" / "demo"))

from gate import set_gate


@pytest.mark.parametrize(
    ("perplexity", "says"), [(None, "was not measured"), (25.0, "must be <20, and is 25"), (19.0, None)]
)
def test_production_asks_for_a_perplexity_below_the_bases(tmp_path, perplexity, says):
    registry = RegistryService(Location(tmp_path / "home"), principal="ann")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    scores = {"held_out": {"perplexity": perplexity, "baseline": {"perplexity": 100.0}}}
    results = {"evaluation_results": {"benchmarks": scores}}
    registry.register(
        tmp_path / "model", name="bot", kind=ModelKind.BASE, metrics=results if perplexity is not None else {}
    )
    assert set_gate(registry, 100.0, 5.0) == "perplexity<20"
    if says is None:
        registry.promote("bot:1.0.0", "production")
        return
    with pytest.raises(PolicyError, match=says):
        registry.promote("bot:1.0.0", "production")
