"""Start of a rollout: a version takes over an alias, or a deployment's versions become production."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamafarm_ray.config import Rollout
from llamafarm_ray.errors import ConflictError
from llamafarm_ray.registry import RegistryApi, RolloutRecord, check_alias
from llamafarm_ray.registry.commands import StartRollout
from llamafarm_ray.registry.rollouts import AbPlan, BlueGreenPlan, CanaryPlan, Guards, Plan, ShadowPlan, Step
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.registry.state.whole import DEFAULT_ALIAS
from llamafarm_ray.types import ModelRef

__all__ = ["plan_of", "roll_out", "start_rollout"]

_MAX_ERROR_RATE = 0.05
"""Default of blue-green rollouts, which have no baseline beside them to compare with."""


def plan_of(config: Rollout) -> Plan:
    """The plan that a configuration's ``deployment.rollout`` describes."""
    guards = Guards(
        max_error_rate=config.guards.max_error_rate,
        max_error_ratio=config.guards.max_error_ratio,
        max_latency_ratio=config.guards.max_latency_ratio,
        min_feedback=config.guards.min_feedback,
        metrics=dict(config.guards.metrics),
        confidence=config.guards.confidence,
    )
    shared: dict[str, Any] = {
        "guards": guards,
        "sticky_by": config.sticky_by,
        "min_requests": config.min_requests,
        "automatic": config.kind != "shadow" if config.automatic is None else config.automatic,
    }
    match config.kind:
        case "canary":
            steps = tuple(Step(percent=percent, dwell_s=config.dwell_s) for percent in config.steps)
            return CanaryPlan(steps=steps, **shared)
        case "blue_green":
            bounded = guards.model_copy(
                update={
                    "max_error_rate": guards.max_error_rate or _MAX_ERROR_RATE,
                    "max_error_ratio": None,
                    "max_latency_ratio": None,
                }
            )
            return BlueGreenPlan(steps=(Step(percent=100, dwell_s=config.dwell_s),), **{**shared, "guards": bounded})
        case "ab":
            return AbPlan(
                percent=config.percent,
                metric=config.metric,
                confidence=config.confidence,
                max_requests=config.max_requests,
                **shared,
            )
        case "shadow":
            return ShadowPlan(percent=config.percent, dwell_s=config.dwell_s, **shared)


def start_rollout(
    registry: RegistryApi, reference: str, alias: str, config: Rollout, *, reason: str = ""
) -> RolloutRecord:
    """Split an alias's requests between the version it points at and another, as a configuration says.

    Args:
        reference: the other version, ``name:version``; a ``name`` alone is its highest.
        alias: the alias of the same model, such as ``production``.
        config: its ``deployment.rollout``.
        reason: reason, for the history.

    Raises:
        NotFoundError: there is no such version or alias.
        ConflictError: a rollout to that alias is under way, or the version can't take its requests.
        PolicyError: the alias may not point at that version, or it lacks a result that the guards ask for.
    """
    check_alias(alias)
    ref = ModelRef.parse(reference)
    record = registry.resolve(ref) if ref.version or ref.alias else registry.latest(ref.name)
    candidate = ModelRef(record.registered.model, version=record.version)
    registry.submit(StartRollout(candidate, alias, plan_of(config)), reason=reason)
    return registry.refresh().rollout(candidate.name, alias)


def roll_out(
    registry: RegistryApi,
    references: Iterable[str],
    config: Rollout,
    *,
    reason: str = "",
    once: bool = False,
    dry_run: bool = False,
) -> list[RolloutRecord]:
    """Move ``production`` of models to versions, as configured; return the rollouts under way then.

    The first version of a model to be deployed becomes its production at once: there is nothing to compare it with. One
    that is production, or is being rolled out to it, is left as it is.

    Args:
        config: their ``deployment.rollout``.
        reason: reason, for the history.
        once: leave a version alone that was production before, or was rolled out to it: what became of that stands.
        dry_run: look whether it can be done, and do nothing.

    Raises:
        NotFoundError: there is no such version.
        ConflictError: another version is being rolled out.
        PolicyError: the alias may not point at that version, or it lacks a result that the guards ask for.
    """
    found = []
    for reference in references:
        record = registry.resolve(reference)
        name, number = record.registered.model, record.registered.version
        aliases = registry.refresh().models[name].aliases
        under_way = registry.state.rollout_under_way(name, DEFAULT_ALIAS)
        if once and _had_its_chance(registry.state, name, number):
            continue
        if DEFAULT_ALIAS not in aliases:
            if not dry_run:
                registry.promote(record.ref, DEFAULT_ALIAS, reason=reason)
        elif aliases[DEFAULT_ALIAS][-1].version == number:
            continue
        elif under_way is not None and under_way.candidate == number:
            found.append(under_way)
        elif under_way is None:
            if not dry_run:
                found.append(start_rollout(registry, record.ref, DEFAULT_ALIAS, config, reason=reason))
        else:
            raise ConflictError(
                f"{name}:{under_way.candidate} is being rolled out to {under_way.target}, so {number} can't be.",
                hint=f"End that first: `llamafarm models rollout promote {name}`, or abort.",
            )
    return found


def _had_its_chance(state: RegistryState, name: str, number: str) -> bool:
    """Return True if a version was its model's production, or was rolled out to it, and is neither now.

    An alias that someone removed stays removed for every version.
    """
    model = state.models[name]
    moves, removed = model.aliases.get(DEFAULT_ALIAS, ()), model.removed.get(DEFAULT_ALIAS, ())
    rollouts = state.rollouts.get(f"{name}@{DEFAULT_ALIAS}", ())
    if not moves:
        return bool(removed or rollouts)
    if moves[-1].version == number:
        return False
    candidates = {rollout.candidate: rollout.status.is_under_way for rollout in rollouts}
    if number in candidates:
        return not candidates[number]
    return any(move.version == number for move in (*removed, *moves))
