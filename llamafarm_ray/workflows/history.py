"""What happened to a model."""

from __future__ import annotations

from llamafarm_ray.errors import NotFoundError, did_you_mean
from llamafarm_ray.registry import RegistryApi, check_name
from llamafarm_ray.registry.access import Action
from llamafarm_ray.types import ModelRef
from llamafarm_ray.workflows.audit import AuditEntry, entries

__all__ = ["history"]


def history(registry: RegistryApi, name: str, *, alias: str | None = None) -> list[AuditEntry]:
    """What happened to a model, newest first, and what was tried and refused.

    Args:
        registry: where to look.
        name: the model's.
        alias: only what is about this alias of it.

    Raises:
        NotFoundError: there is no such model, or it never had that alias.
        IntegrityError: a commit is damaged.
    """
    check_name(name)
    state = registry.refresh()
    registry.allow(Action.READ, ModelRef(name).namespace, target=name)
    if name not in state.models:
        raise NotFoundError(f"There is no model {name!r}.", hint=did_you_mean(name, state.models))
    found = [entry for entry in entries(registry) if entry.model == name and alias in {None, entry.alias}]
    if alias is not None and not found:
        raise NotFoundError(f"{name} has no alias {alias!r}.", hint=did_you_mean(alias, state.models[name].aliases))
    return found[::-1]
