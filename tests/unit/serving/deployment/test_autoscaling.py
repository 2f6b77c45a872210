"""How many replicas there are: what Serve is told, and what the policy adds to Serve's own."""

import time

import pytest
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from llamafarm_ray.config import parse_config
from llamafarm_ray.serving.deployment.autoscaling import (
    CPU_METRIC,
    CpuMeter,
    Evictions,
    Placements,
    ScalingPolicy,
    scaling_options,
)

IDLE_S = 100.0


def options(**deployment):
    return scaling_options(parse_config({"deployment": deployment}).deployment)


def test_without_scaling_the_number_is_fixed():
    assert options(replicas=3)["num_replicas"] == 3
    assert "autoscaling_config" not in options(replicas=3)


def test_a_replica_that_goes_has_time_for_long_answers():
    assert options()["graceful_shutdown_timeout_s"] >= 600


def test_serves_own_policy_follows_the_requests():
    made = AutoscalingConfig(**options(replicas=2, auto_scaling={"max_replicas": 5})["autoscaling_config"])
    assert (made.min_replicas, made.initial_replicas, made.max_replicas) == (1, 2, 5)
    assert made.policy.is_default_policy_function()


@pytest.mark.parametrize("more", [{"min_replicas": 0}, {"cpu_threshold": 80}])
def test_what_serve_lacks_is_our_policys(more):
    scaling = {"max_replicas": 5, "downscale_delay_s": 7.0, **more}
    made = AutoscalingConfig(**options(auto_scaling=scaling)["autoscaling_config"])
    policy = _resolve_policy_callable(made.policy)
    assert isinstance(policy, ScalingPolicy)
    assert (policy._idle_s, policy._cpu_threshold) == (7.0, more.get("cpu_threshold"))


class Cluster:
    """What the policies of its deployments get to see, with Serve's own delays and bounds around them."""

    def __init__(self):
        self.now = 1000.0
        self.placements = Placements()
        self.num_looks = 0
        self.evictions = Evictions(self._look)
        self.deployments = {}

    def _look(self):
        self.num_looks += 1
        return self.placements

    def add(self, name, *, cpu_threshold=None, num_replicas=1, min_replicas=0):
        self.deployments[name] = Deployment(self, name, cpu_threshold, num_replicas, min_replicas)
        return self.deployments[name]

    def after(self, seconds, *deployments):
        """Let time pass, a tick of Serve's loop a second; the last decisions."""
        for _ in range(int(seconds)):
            self.now += 1
            decisions = [one.tick() for one in deployments]
        return decisions[0] if len(decisions) == 1 else decisions


class Deployment:
    def __init__(self, cluster, name, cpu_threshold, num_replicas, min_replicas):
        self._cluster, self._name = cluster, name
        self.num_replicas, self.num_requests, self.loads, self._state = num_replicas, 0.0, {}, {}
        self._config = AutoscalingConfig(
            min_replicas=min_replicas,
            max_replicas=10,
            target_ongoing_requests=4,
            upscale_delay_s=5,
            downscale_delay_s=IDLE_S,
            downscale_to_zero_delay_s=0,
        )
        self._policy = _apply_autoscaling_config(ScalingPolicy(IDLE_S, cpu_threshold, cluster.evictions))

    def tick(self):
        context = AutoscalingContext(
            deployment_id=DeploymentID(name="tiny", app_name=self._name),
            deployment_name="tiny",
            app_name=self._name,
            current_num_replicas=self.num_replicas,
            target_num_replicas=self.num_replicas,
            running_replicas=[],
            total_num_requests=self.num_requests,
            total_queued_requests=0.0,
            aggregated_metrics={CPU_METRIC: self.loads},
            raw_metrics={},
            capacity_adjusted_min_replicas=self._config.min_replicas,
            capacity_adjusted_max_replicas=10,
            policy_state=self._state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=self._cluster.now,
            config=self._config,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: self._cluster.now)
            decision, self._state = self._policy(context)
        self.num_replicas = max(self._config.min_replicas, min(10, decision))
        return self.num_replicas


@pytest.fixture
def cluster():
    return Cluster()


def test_more_requests_add_replicas_after_the_delay(cluster):
    one = cluster.add("one")
    one.num_requests = 18.0
    assert cluster.after(4, one) == 1
    assert cluster.after(3, one) == 5


def test_fewer_requests_take_replicas_away_after_the_delay_but_not_the_last(cluster):
    one = cluster.add("one", num_replicas=5)
    one.num_requests = 0.5
    assert cluster.after(IDLE_S - 1, one) == 5
    assert cluster.after(3, one) == 1
    assert cluster.after(10 * IDLE_S, one) == 1


def test_the_last_goes_when_nothing_was_asked_for_long_enough(cluster):
    one = cluster.add("one")
    one.num_requests = 1.0
    cluster.after(50, one)
    one.num_requests = 0.0
    assert cluster.after(IDLE_S - 1, one) == 1
    assert cluster.after(2, one) == 0


def test_the_first_request_starts_one_at_once(cluster):
    one = cluster.add("one", num_replicas=0)
    assert cluster.after(10, one) == 0
    one.num_requests = 1.0
    assert cluster.after(1, one) == 1


@pytest.mark.parametrize("slept_s", [1, 10 * IDLE_S])
def test_a_first_replica_whose_requests_are_not_told_of_yet_stays(cluster, slept_s):
    one = cluster.add("one", num_replicas=0)
    cluster.after(slept_s, one)
    one.num_requests = 1.0
    for _ in range(int(2 * IDLE_S)):  # it starts, while Serve's own rule for the first replica holds
        assert cluster.after(1, one) == 1
        one.num_replicas = 0
    one.num_replicas, one.num_requests = 1, 0.0
    assert cluster.after(IDLE_S - 1, one) == 1
    assert cluster.after(3, one) == 0


def test_what_may_not_scale_to_zero_stays(cluster):
    one = cluster.add("one", min_replicas=1)
    cluster.placements = Placements(1, frozenset({"one#tiny"}))
    assert cluster.after(10 * IDLE_S, one) == 1


def test_cpu_load_above_the_threshold_adds_replicas(cluster):
    one = cluster.add("one", cpu_threshold=50, num_replicas=2, min_replicas=1)
    one.num_requests, one.loads = 2.0, {"a": 100.0, "b": 60.0}
    assert cluster.after(7, one) == 4
    one.loads = dict.fromkeys("abcd", 52.0)
    assert cluster.after(2 * IDLE_S, one) == 4


def test_the_least_recently_used_makes_room_for_a_replica_that_finds_none(cluster):
    old, new = cluster.add("old"), cluster.add("new")
    old.num_requests = new.num_requests = 1.0
    cluster.after(5, old, new)
    old.num_requests = 0.0
    cluster.after(5, old, new)
    new.num_requests = 0.0
    assert cluster.after(20, old, new) == [1, 1]
    both = frozenset({"old#tiny", "new#tiny"})
    cluster.placements = Placements(1, both)
    assert cluster.after(9, old, new) == [1, 1]  # Ray may find a place yet
    assert cluster.after(3, old, new) == [0, 1]
    assert cluster.after(20, old, new) == [0, 1], "it is still finishing what is under way"
    cluster.placements = Placements(0, frozenset({"new#tiny", "third#tiny"}))
    assert cluster.after(20, old, new) == [0, 1]


def test_another_one_goes_where_that_was_not_enough(cluster):
    old, new = cluster.add("old"), cluster.add("new")
    old.num_requests = 1.0
    cluster.after(5, old)
    old.num_requests = 0.0
    new.num_requests = 1.0
    cluster.after(5, old, new)
    new.num_requests = 0.0
    cluster.after(20, old, new)
    cluster.placements = Placements(1, frozenset({"old#tiny", "new#tiny"}))
    assert cluster.after(12, old, new) == [0, 1]
    cluster.placements = Placements(1, frozenset({"new#tiny"}))
    assert cluster.after(9, old, new) == [0, 1]
    assert cluster.after(4, old, new) == [0, 0]


def test_who_is_busy_makes_no_room(cluster):
    one = cluster.add("one")
    one.num_requests = 0.1
    cluster.placements = Placements(1, frozenset({"one#tiny"}))
    assert cluster.after(IDLE_S, one) == 1
    assert cluster.num_looks == 0


def test_one_that_made_room_and_is_back_stays(cluster):
    one = cluster.add("one")
    cluster.after(20, one)
    cluster.placements = Placements(1, frozenset({"one#tiny"}))
    assert cluster.after(12, one) == 0
    one.num_requests = 1.0
    cluster.placements = Placements(0, frozenset({"one#tiny"}))
    assert cluster.after(5, one) == 1
    one.num_requests = 0.0
    assert cluster.after(30, one) == 1


def test_one_that_was_just_used_makes_no_room_yet(cluster):
    one = cluster.add("one")
    one.num_requests = 1.0
    cluster.after(5, one)
    one.num_requests = 0.0
    cluster.placements = Placements(1, frozenset({"one#tiny"}))
    assert cluster.after(14, one) == 1


def test_deployments_that_are_gone_keep_nobody(cluster):
    gone, one = cluster.add("gone"), cluster.add("one")
    cluster.after(3, gone, one)
    cluster.after(20, one)
    cluster.placements = Placements(1, frozenset({"one#tiny"}))
    assert cluster.after(12, one) == 0


def test_a_busy_process_uses_its_cpu():
    meter = CpuMeter(num_cpus=1)
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    assert meter.percent() > 5
    assert CpuMeter(num_cpus=1).percent() >= 0
