"""Desired state of a loaded version, read from the registry, and the versions that its model's aliases point at."""

from __future__ import annotations

import enum

from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.serving.routing.resolution import Target, is_served, target_of
from llamafarm_ray.types import Digest, ModelRef

__all__ = ["Need", "aliases_of", "need_of"]


class Need(enum.Enum):
    """Reason to keep a version loaded, or to unload it."""

    GONE = "gone"
    """It was retired and can't be requested any more."""
    NONE = "none"
    """Only requests that name the version itself get it."""
    ALIAS = "alias"
    """An alias points at it."""
    CANDIDATE = "candidate"
    """A rollout under way may bring it to an alias."""

    @property
    def is_standing(self) -> bool:
        """True if requests that name no version may come at any time."""
        return self in {Need.ALIAS, Need.CANDIDATE}


def need_of(target: Target, state: RegistryState) -> Need:
    """Return the reason to keep an adapter's version loaded, by the registry's state."""
    ref = ModelRef.parse(target.ref)
    model = state.models.get(ref.name)
    record = model.versions.get(str(ref.version)) if model is not None else None
    if model is None or record is None or record.retired is not None:
        return Need.GONE
    number = record.registered.version
    for alias in model.aliases:
        rollout = state.rollout_under_way(model.name, alias)
        if rollout is not None and rollout.candidate == number:
            return Need.CANDIDATE
    return Need.ALIAS if model.pointing_at(number) else Need.NONE


def aliases_of(target: Target, state: RegistryState, base_digest: Digest) -> dict[str, Target]:
    """Return the versions that a model's aliases point at, of those that can be served on this base model."""
    model = state.models.get(ModelRef.parse(target.ref).name)
    if model is None:
        return {}
    records = {alias: model.versions[moves[-1].version] for alias, moves in sorted(model.aliases.items())}
    return {alias: target_of(record) for alias, record in records.items() if is_served(record, state, base_digest)}
