"""History of a model."""

from __future__ import annotations

import datetime as dt

from llamafarm_ray.errors import NotFoundError, did_you_mean
from llamafarm_ray.registry import RegistryApi, check_name
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.types import ModelRef
from llamafarm_ray.workflows.governance.audit import AuditEntry, entries

__all__ = ["history"]


def history(
    registry: RegistryApi, name: str, *, alias: str | None = None, at: dt.datetime | None = None
) -> list[AuditEntry]:
    """Return a model's history, newest first, with refused attempts.

    Args:
        registry: the registry to read.
        alias: only what is about this alias of it.
        at: as of when; now by default.

    Raises:
        NotFoundError: there was no such model, or it never had that alias.
        IntegrityError: a commit is damaged.
    """
    check_name(name)
    now = registry.refresh()
    registry.allow(Action.READ, ModelRef(name).namespace, target=name)
    state = now if at is None else registry.state_at(at)
    if name not in state.models:
        raise NotFoundError(f"There is no model {name!r}.", hint=did_you_mean(name, state.models))
    told = (entry for entry in entries(registry) if at is None or entry.time <= at)
    found = [entry for entry in told if entry.model == name and alias in {None, entry.alias}]
    if alias is not None and not found:
        raise NotFoundError(f"{name} has no alias {alias!r}.", hint=did_you_mean(alias, state.models[name].aliases))
    return found[::-1]
