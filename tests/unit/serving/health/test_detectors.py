"""river's second opinion on the records of a version."""

import numpy as np
import pytest
from simulated_requests import drawn_week

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.serving.health import detectors
from llamafarm_ray.serving.health.detectors import check_river, river_changes
from llamafarm_ray.serving.health.looks import Plan, examine


def changes(blocks):
    return river_changes(blocks, examine(blocks, Plan(reference_s=0)).reference)


def test_failures_that_begin_are_seen_soon_after_with_their_size():
    pytest.importorskip("river", reason="the extra `drift` is not installed")
    blocks = drawn_week(np.random.default_rng(1), 4000)
    for block in blocks[60:]:
        block.num_failed, block.num_answered = 10, 40
    found = [one for one in changes(blocks) if one.signal == "failed"]
    assert found[0].time_s <= blocks[70].end_s
    assert found[0].matters
    assert found[0].before < 0.05 < found[0].after < 0.25


def test_a_quiet_week_has_no_change_that_matters():
    pytest.importorskip("river", reason="the extra `drift` is not installed")
    assert not [one for one in changes(drawn_week(np.random.default_rng(2), 4000)) if one.matters]


def test_without_river_its_extra_is_named(monkeypatch):
    monkeypatch.setattr(detectors.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match="needs river"):
        check_river()
