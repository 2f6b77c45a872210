"""The registry's metrics follow its state and its commits."""

import datetime as dt

import pytest
from counting_meters import CountingMeters

from llamafarm_ray.errors import AccessDeniedError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import PauseRollout, StartRollout, StopRollout
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.preconditions import utc_now
from llamafarm_ray.registry.remote.metrics import RegistryMeters
from llamafarm_ray.registry.rollouts import AbPlan, CanaryPlan, Step
from llamafarm_ray.types import ModelRef, Version

OVERDUE = "llamafarm_rollout_overdue_seconds"


@pytest.fixture
def told():
    """Meters of a registry, with what they tell."""
    sink = CountingMeters()
    meters = RegistryMeters(sink, sink.forget)
    meters.sink = sink
    return meters


def test_versions_and_their_files_are_counted_by_namespace_until_they_are_retired(registry, versions, told):
    versions("bot", "1.0.0", "1.1.0")
    versions("shop/bot", "1.0.0")
    told.refresh(registry.refresh(), utc_now())
    gauges = told.sink.gauges
    assert gauges["llamafarm_registry_sequence",] == registry.state.sequence == 3
    assert gauges["llamafarm_registry_versions", "adapter", ""] == 2
    assert gauges["llamafarm_registry_versions", "adapter", "shop"] == 1
    assert gauges["llamafarm_registry_stored_bytes", ""] == 2, "each has a byte"
    registry.retire("shop/bot:1.0.0")
    told.refresh(registry.refresh(), utc_now())
    assert ("llamafarm_registry_versions", "adapter", "shop") not in gauges
    assert ("llamafarm_registry_stored_bytes", "shop") not in gauges


def test_commits_and_refusals_are_counted(registry, versions, told):
    registry.on_commit(lambda: told.committed(registry.recent[-1]))
    versions("bot", "1.0.0")
    root = RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))
    eve = RegistryService(registry.home, token=root.add_principal("eve", {"*": Role.VIEWER}))
    with pytest.raises(AccessDeniedError):
        eve.promote("bot:1.0.0", "production")
    registry.refresh()
    assert told.sink.counters["llamafarm_registry_commits_total",] == registry.state.sequence == 4
    assert told.sink.counters["llamafarm_registry_refusals_total", "move alias"] == 1


@pytest.mark.parametrize(("plan", "late_s"), [(CanaryPlan(steps=(Step(percent=5, dwell_s=60),)), 540), (AbPlan(), 0)])
def test_a_rollouts_step_is_overdue_beyond_its_time_and_gone_when_it_ends(registry, versions, told, plan, late_s):
    versions("bot", "1.0.0", "1.1.0")
    registry.promote("bot:1.0.0", "production")
    registry.submit(StartRollout(ModelRef("bot", version=Version.parse("1.1.0")), "production", plan))
    began = registry.refresh().rollout("bot", "production").step_since
    told.refresh(registry.state, began + dt.timedelta(seconds=30))
    assert told.sink.gauges[OVERDUE, "production", "bot"] == 0
    told.refresh(registry.state, began + dt.timedelta(seconds=600))
    assert told.sink.gauges[OVERDUE, "production", "bot"] == late_s
    assert told.sink.gauges["llamafarm_rollout_percent", "production", "bot"] > 0
    registry.submit(StopRollout("bot", "production", is_rollback=False))
    told.refresh(registry.refresh(), utc_now())
    assert (OVERDUE, "production", "bot") not in told.sink.gauges


def test_a_paused_rollout_is_not_late(registry, versions, told):
    versions("bot", "1.0.0", "1.1.0")
    registry.promote("bot:1.0.0", "production")
    plan = CanaryPlan(steps=(Step(percent=5, dwell_s=60),))
    registry.submit(StartRollout(ModelRef("bot", version=Version.parse("1.1.0")), "production", plan))
    registry.submit(PauseRollout("bot", "production"))
    told.refresh(registry.refresh(), utc_now() + dt.timedelta(hours=9))
    assert told.sink.gauges.get((OVERDUE, "production", "bot"), 0) == 0
