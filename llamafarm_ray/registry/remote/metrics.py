"""Metrics of the registry's actor: sizes of its state, commits, refusals, and rollouts that are late."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Callable

from llamafarm_ray.registry.events import Refused
from llamafarm_ray.registry.log import Commit
from llamafarm_ray.registry.rollouts import AbPlan, RolloutStatus
from llamafarm_ray.registry.state import RegistryState, RolloutRecord
from llamafarm_ray.telemetry.catalog import REGISTRY
from llamafarm_ray.telemetry.meters import Meters, RayMeters
from llamafarm_ray.types import ModelRef

__all__ = ["RegistryMeters", "export"]


class RegistryMeters:
    """Tells of a registry's state and commits.

    Args:
        meters: sink of the metrics.
        forget: drops the values of a gauge, whose labels may have gone.
    """

    def __init__(self, meters: Meters, forget: Callable[[str], object]) -> None:
        self._meters = meters
        self._forget = forget
        self._known: RegistryState | None = None

    def committed(self, commit: Commit) -> None:
        """Take in a commit."""
        self._meters.add("llamafarm_registry_commits_total", 1, {})
        refused = (event for change in commit.changes for event in change.events if isinstance(event, Refused))
        for event in refused:
            self._meters.add("llamafarm_registry_refusals_total", 1, {"action": str(event.action)})

    def refresh(self, state: RegistryState, now: dt.datetime) -> None:
        """Set the gauges."""
        if state is not self._known:  # states never change
            self._known = state
            self._set_contents(state)
        for name in ("llamafarm_rollout_percent", "llamafarm_rollout_overdue_seconds"):
            self._forget(name)
        for rollout in state.rollouts_under_way():
            labels = {"model": rollout.model, "alias": rollout.alias}
            self._meters.set("llamafarm_rollout_percent", rollout.percent, labels)
            self._meters.set("llamafarm_rollout_overdue_seconds", overdue_s(rollout, now), labels)

    def _set_contents(self, state: RegistryState) -> None:
        versions: Counter[tuple[str, str]] = Counter()
        sizes: dict[str, dict[str, int]] = {}
        for record in state.versions():
            if record.retired is not None:
                continue
            registered = record.registered
            namespace = ModelRef(registered.model).namespace
            versions[namespace, str(registered.kind)] += 1
            sizes.setdefault(namespace, {})[registered.manifest] = registered.size_bytes
        for name in ("llamafarm_registry_versions", "llamafarm_registry_stored_bytes"):
            self._forget(name)
        self._meters.set("llamafarm_registry_sequence", state.sequence, {})
        self._meters.set("llamafarm_registry_datasets", len(state.datasets), {})
        for (namespace, kind), count in versions.items():
            self._meters.set("llamafarm_registry_versions", count, {"namespace": namespace, "kind": kind})
        for namespace, by_manifest in sizes.items():
            self._meters.set("llamafarm_registry_stored_bytes", sum(by_manifest.values()), {"namespace": namespace})


def overdue_s(rollout: RolloutRecord, now: dt.datetime) -> float:
    """Return the seconds that a rollout's step lasts beyond the plan; 0 while paused, and for A/B tests.

    An A/B test ends by evidence, not by time.
    """
    if isinstance(rollout.plan, AbPlan) or rollout.status is RolloutStatus.PAUSED:
        return 0.0
    lasted_s = (now - rollout.step_since).total_seconds()
    return max(0.0, lasted_s - rollout.steps[rollout.step].dwell_s)


def export(
    state: Callable[[], RegistryState], now: Callable[[], dt.datetime]
) -> tuple[RegistryMeters, threading.Event]:
    """Export through Ray until the event is set.

    Args:
        state: gives the newest state.

    Returns:
        The meters, to be told of commits, and the event that ends them.
    """
    ended = threading.Event()
    meters = RayMeters(REGISTRY)
    told = RegistryMeters(meters, meters.forget)
    meters.keep_gauges_until(ended, lambda: told.refresh(state(), now()))
    return told, ended
