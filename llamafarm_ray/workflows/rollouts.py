"""Give a new version some of an alias's requests, watch over it, and end that well or badly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamafarm_ray.config import Rollout
from llamafarm_ray.errors import ConflictError, NotFoundError
from llamafarm_ray.registry import RegistryApi, RolloutRecord, check_alias, check_name
from llamafarm_ray.registry.access import Action
from llamafarm_ray.registry.commands import (
    PauseRollout,
    PromoteRollout,
    ResumeRollout,
    StartRollout,
    StopRollout,
)
from llamafarm_ray.registry.rollouts import AbPlan, BlueGreenPlan, CanaryPlan, Guards, Plan, ShadowPlan, Step
from llamafarm_ray.registry.state.whole import DEFAULT_ALIAS
from llamafarm_ray.types import ModelRef

__all__ = [
    "abort_rollout",
    "pause_rollout",
    "plan_of",
    "promote_rollout",
    "resume_rollout",
    "roll_out",
    "rollout_dict",
    "rollouts",
    "start_rollout",
]

_MAX_ERROR_RATE = 0.05
"""Of blue-green, where nobody says otherwise: nothing runs beside it that it could be compared with."""


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
        registry: where the alias is.
        reference: the other version, ``name:version``; a ``name`` alone is its highest.
        alias: the alias of the same model, such as ``production``.
        config: its ``deployment.rollout``.
        reason: why, for the history.

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
    registry: RegistryApi, references: Iterable[str], config: Rollout, *, reason: str = "", dry_run: bool = False
) -> list[RolloutRecord]:
    """Have versions take over ``production`` of their models as a configuration says; the rollouts under way then.

    The first version of a model to be deployed becomes its production at once: there is nothing to compare it with. One
    that is production, or is being rolled out to it, is left as it is.

    Args:
        registry: where the versions are.
        references: the versions.
        config: their ``deployment.rollout``.
        reason: why, for the history.
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
        if DEFAULT_ALIAS not in aliases:
            if not dry_run:
                registry.promote(record.ref, DEFAULT_ALIAS, reason=reason)
        elif aliases[DEFAULT_ALIAS][-1].version == number:
            continue
        elif under_way is None:
            if not dry_run:
                found.append(start_rollout(registry, record.ref, DEFAULT_ALIAS, config, reason=reason))
        elif under_way.candidate == number:
            found.append(under_way)
        else:
            raise ConflictError(
                f"{name}:{under_way.candidate} is being rolled out to {under_way.target}, so {number} can't be.",
                hint=f"End that first: `llamafarm models rollout promote {name}`, or abort.",
            )
    return found


def pause_rollout(registry: RegistryApi, name: str, alias: str, *, reason: str = "") -> RolloutRecord:
    """Keep the split of an alias's rollout as it is; guards go on guarding."""
    return _change(registry, PauseRollout(*_checked(name, alias)), reason)


def resume_rollout(registry: RegistryApi, name: str, alias: str, *, reason: str = "") -> RolloutRecord:
    """Go on with an alias's paused rollout."""
    return _change(registry, ResumeRollout(*_checked(name, alias)), reason)


def promote_rollout(registry: RegistryApi, name: str, alias: str, *, reason: str = "") -> RolloutRecord:
    """Point an alias at its rollout's candidate now, if its policy allows that."""
    return _change(registry, PromoteRollout(*_checked(name, alias)), reason)


def abort_rollout(registry: RegistryApi, name: str, alias: str, *, reason: str = "") -> RolloutRecord:
    """Send all of an alias's requests to the version it points at again."""
    return _change(registry, StopRollout(*_checked(name, alias)), reason)


def rollouts(
    registry: RegistryApi, name: str | None = None, *, alias: str | None = None, every: bool = False
) -> list[RolloutRecord]:
    """Rollouts, the newest first.

    Args:
        registry: where.
        name: only this model's; by default those of all models that whoever asks may read.
        alias: only those to this alias.
        every: also those that are over; by default of each alias the one under way, or with ``name`` the newest.

    Raises:
        NotFoundError: that model has no rollout (to that alias).
    """
    state = registry.refresh()
    if name is not None:
        check_name(name)
        registry.allow(Action.READ, ModelRef(name).namespace, target=name)
        state.resolve(ModelRef(name))  # that there is such a model
    found = [
        record
        for known in state.rollouts.values()
        for record in (known if every else known[-1:])
        if name in {None, record.model} and alias in {None, record.alias}
    ]
    if name is not None and not found:
        raise NotFoundError(
            f"{name}{f'@{alias}' if alias else ''} never had a rollout.",
            hint=f"`llamafarm models rollout start {name}:VERSION` starts one.",
        )
    if name is None:
        namespaces = {ModelRef(record.model).namespace for record in found}
        readable = {namespace for namespace in namespaces if registry.may(Action.READ, namespace)}
        found = [
            record
            for record in found
            if ModelRef(record.model).namespace in readable and (every or record.status.is_under_way)
        ]
    return sorted(found, key=lambda record: record.changes[0].time, reverse=True)


def rollout_dict(record: RolloutRecord) -> dict[str, Any]:
    """A rollout for programs."""
    return {
        "id": record.id,
        "alias": record.target,
        "baseline": f"{record.model}:{record.baseline}",
        "candidate": f"{record.model}:{record.candidate}",
        "status": record.status,
        "step": record.step + 1,
        "steps": len(record.steps),
        "percent": record.percent,
        "plan": record.plan.model_dump(mode="json"),
        "changes": [
            {
                "status": change.status,
                "step": change.step + 1,
                "time": change.time.isoformat(),
                "principal": change.principal,
                "reason": change.reason,
            }
            for change in record.changes
        ],
    }


def _checked(name: str, alias: str) -> tuple[str, str]:
    check_name(name)
    check_alias(alias)
    return name, alias


def _change(
    registry: RegistryApi, command: PauseRollout | ResumeRollout | PromoteRollout | StopRollout, reason: str
) -> RolloutRecord:
    registry.submit(command, reason=reason)
    return registry.refresh().rollout(command.model, command.alias)
