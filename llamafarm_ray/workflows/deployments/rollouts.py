"""Manage rollouts: pause, resume, promote, roll back, and list them."""

from __future__ import annotations

from llamafarm_ray.errors import NotFoundError
from llamafarm_ray.registry import RegistryApi, RolloutRecord, check_alias, check_name
from llamafarm_ray.registry.commands import (
    PauseRollout,
    PromoteRollout,
    ResumeRollout,
    StopRollout,
)
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.types import ModelRef

__all__ = [
    "abort_rollout",
    "pause_rollout",
    "promote_rollout",
    "resume_rollout",
    "rollout_dict",
    "rollouts",
]


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
        registry: the registry to read.
        name: only this model's; by default those of all models that the caller may read.
        alias: only those to this alias.
        every: also those that are over; by default of each alias the one under way, or with ``name`` the newest.

    Raises:
        NotFoundError: that model has no rollout (to that alias).
    """
    state = registry.refresh()
    if name is not None:
        check_name(name)
        registry.allow(Action.READ, ModelRef(name).namespace, target=name)
        state.model(name)  # that there is such a model
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


def rollout_dict(record: RolloutRecord) -> dict[str, object]:
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
