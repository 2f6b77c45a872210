"""Number of replicas of a deployment: Ray Serve's options for a configuration, and a policy that adds to Serve's own.

Serve counts the requests at a replica itself, those that HAProxy sends there directly too, and its own policy follows
them. :class:`ScalingPolicy` adds two things. Replicas follow their CPU load, where ``cpu_threshold`` is set. And an
application that is idle and may scale to zero does so at once, not after its delay, when a replica of another one finds
no place: the least recently used first, one at a time. So models take turns on the memory, CPUs and GPUs of a cluster,
and it is Ray that says what fits: each replica asks for what ``deployment.resources`` says, or :mod:`.memory` reckons.

Policies run in Serve's controller, one object for each deployment, so they see each other in :data:`_EVICTIONS`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from llamafarm_ray.config import Deployment
from llamafarm_ray.serving.engines.vllm.llm_config import DeploymentOptions

__all__ = [
    "CPU_METRIC",
    "DEREGISTRATION_S",
    "DRAIN_S",
    "CpuMeter",
    "Evictions",
    "Placements",
    "ScalingPolicy",
    "most_replicas",
    "scaling_options",
]

logger = logging.getLogger("ray.serve.llamafarm")

DRAIN_S = 600
"""Seconds that a replica which goes away has for the answers under way. HAProxy keeps connections open for as long."""
DEREGISTRATION_S = 5
"""Seconds for which a replica that goes away still takes requests, until HAProxy no longer lists it.

Ray's default of 30 is for load balancers of clouds, which talk to replicas themselves. HAProxy is told within a second,
and retries a refused connection at another replica."""
CPU_METRIC = "cpu_percent"
_POLICY = f"{__name__}:ScalingPolicy"
_TOLERANCE = 0.1
"""CPU load this close to the threshold changes nothing, as in Kubernetes' horizontal pod autoscaler."""
_PATIENCE_S = 10.0
"""A replica without a place for this long gets one made; before, its process may be about to start."""
_SETTLED_S = 15.0
"""Idle for this long makes room; replicas tell of their requests every ten seconds."""
_STARTED_S = 5.0
"""Not asked for this long: there was no replica meanwhile."""
_FORGOTTEN_S = 10.0
"""A deployment that did not ask for this long is gone."""
_LOOK_S = 1.0


def most_replicas(deployment: Deployment) -> int:
    """Return the greatest number of replicas; one more may run while an application is replaced."""
    return max(deployment.replicas, deployment.auto_scaling.max_replicas if deployment.auto_scaling else 1)


def scaling_options(deployment: Deployment) -> DeploymentOptions:
    """The options of a Serve deployment that say how many replicas it has, and how they end."""
    options = DeploymentOptions(graceful_shutdown_timeout_s=float(DRAIN_S))
    scaling = deployment.auto_scaling
    if scaling is None:
        return {**options, "num_replicas": deployment.replicas}
    asked: dict[str, object] = {
        "min_replicas": scaling.min_replicas,
        "initial_replicas": deployment.replicas,
        "max_replicas": scaling.max_replicas,
        "target_ongoing_requests": scaling.target_ongoing_requests,
        "upscale_delay_s": scaling.upscale_delay_s,
        "downscale_delay_s": scaling.downscale_delay_s,
    }
    if scaling.min_replicas == 0 or scaling.cpu_threshold is not None:
        kwargs = {"idle_s": scaling.downscale_delay_s, "cpu_threshold": scaling.cpu_threshold}
        asked["downscale_to_zero_delay_s"] = 0.0  # the policy waits itself, or does not
        asked["policy"] = {"policy_function": _POLICY, "policy_kwargs": kwargs}
    return {**options, "autoscaling_config": asked}


class CpuMeter:
    """The CPU load of this process and its children, the engine's among them.

    Args:
        num_cpus: CPUs of the replica; all of them in use are 100 percent.
    """

    def __init__(self, num_cpus: float) -> None:
        self._num_cpus = num_cpus
        self._seen = self._cpu_seconds()

    def percent(self) -> float:
        """Percent in use since the last call."""
        before, self._seen = self._seen, self._cpu_seconds()
        (then, used_then), (now, used_now) = before, self._seen
        if now <= then:
            return 0.0
        return max(0.0, 100 * (used_now - used_then) / (now - then) / self._num_cpus)

    def _cpu_seconds(self) -> tuple[float, float]:
        used, own = 0.0, psutil.Process()
        for process in (own, *own.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:  # it ended just now
                continue
            used += times.user + times.system
        return time.monotonic(), used


@dataclass(frozen=True, slots=True)
class Placements:
    """Placement of the replicas of this cluster's Serve.

    Attributes:
        num_pending: replicas that no node has a place for, now.
        placed: the deployments, as ``application#name``, that have replicas on nodes.
    """

    num_pending: int = 0
    placed: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Idle:
    """A deployment that could go."""

    used: float
    seen: float


@dataclass(slots=True)
class Evictions:
    """Choice of the idle deployment that makes room when another one has no place.

    Args:
        placements: looks at the cluster, once a second, and only for idle deployments.
    """

    placements: Callable[[], Placements]
    _idle: dict[str, _Idle] = field(default_factory=dict)
    _leaving: str = ""
    _looked: float = float("-inf")
    _found: Placements = field(default_factory=Placements)
    _pending_since: float | None = None

    def busy(self, deployment: str) -> None:
        """A deployment has requests: it stays."""
        self._idle.pop(deployment, None)
        if self._leaving == deployment:  # it is back
            self._leaving = ""

    def must_go(self, deployment: str, used: float, now: float) -> bool:
        """Return True if an idle deployment makes room now.

        Args:
            deployment: ``application#name``.
            used: time of its last request.
            now: the time, in seconds as ``used``.
        """
        if now - used < _SETTLED_S:
            return False
        self._idle[deployment] = _Idle(used, now)
        self._look(now)
        if self._leaving and self._leaving not in self._found.placed:
            self._leaving, self._pending_since = "", now  # its place is free: whoever waits gets time to take it
        if self._leaving or self._pending_since is None or now - self._pending_since < _PATIENCE_S:
            return self._leaving == deployment
        known = {name: idle for name, idle in self._idle.items() if now - idle.seen < _FORGOTTEN_S}
        if min(known, key=lambda name: known[name].used) != deployment:
            return False
        logger.info("%s is idle and makes room: %d replicas find no place.", deployment, self._found.num_pending)
        self._leaving = deployment
        del self._idle[deployment]
        return True

    def _look(self, now: float) -> None:
        if now - self._looked < _LOOK_S:
            return
        self._looked, self._found = now, self.placements()
        if self._found.num_pending == 0:
            self._pending_since = None
        elif self._pending_since is None:
            self._pending_since = now


def _cluster_placements() -> Placements:
    from llamafarm_ray.serving.ray_serve.replicas import replica_placements  # it imports Ray Serve

    pending, placed = replica_placements()
    return Placements(len(pending), frozenset(placed))


_EVICTIONS = Evictions(_cluster_placements)


class ScalingPolicy:
    """A policy for ``AutoscalingConfig.policy`` of Ray Serve, which keeps to the bounds and adds the delays.

    Args:
        idle_s: seconds without a request after which the last replica goes.
        cpu_threshold: percent of the CPUs in use that adds a replica, as replicas tell by :data:`CPU_METRIC`.
        evictions: shared by all policies of a process.
    """

    def __init__(self, idle_s: float, cpu_threshold: float | None = None, evictions: Evictions | None = None) -> None:
        self._idle_s = idle_s
        self._cpu_threshold = cpu_threshold
        self._evictions = evictions or _EVICTIONS
        self._used = self._called = float("-inf")
        self._was_running = False

    def __call__(self, ctx: Any) -> tuple[float, dict[str, object]]:
        """Return the number of replicas that there should be.

        Args:
            ctx: Serve's ``AutoscalingContext``.
        """
        num_running, now = ctx.current_num_replicas, ctx.current_time
        # Serve does not ask while a first replica is started for requests, and that one has not told of them yet.
        if not self._was_running or now - self._called > _STARTED_S:
            self._used = now
        self._was_running, self._called = num_running > 0, now
        if num_running == 0:
            return ctx.target_num_replicas, {}
        num_requests = ctx.total_num_requests
        wanted = max(num_requests / ctx.config.get_target_ongoing_requests(), self._for_cpu(ctx))
        name = f"{ctx.app_name}#{ctx.deployment_name}"
        if num_requests > 0:
            self._used = now
            self._evictions.busy(name)
        if ctx.capacity_adjusted_min_replicas > 0 or num_requests > 0:
            return wanted, {}
        is_last = ctx.target_num_replicas == 1
        if now - self._used >= self._idle_s or (is_last and self._evictions.must_go(name, self._used, now)):
            return 0.0, {}
        return max(1.0, wanted), {}

    def _for_cpu(self, ctx: Any) -> float:
        """Replicas that would bring the mean CPU load to the threshold, as Kubernetes reckons it."""
        loads = list((ctx.aggregated_metrics or {}).get(CPU_METRIC, {}).values()) if self._cpu_threshold else []
        if not loads or self._cpu_threshold is None:
            return 0.0
        ratio = sum(loads) / len(loads) / self._cpu_threshold
        return float(ctx.current_num_replicas) * (1.0 if abs(ratio - 1) <= _TOLERANCE else ratio)
