"""Versions with the same files as another one, under any name that the caller may read."""

from __future__ import annotations

from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.types import ModelRef

__all__ = ["living_copies", "retired_copies"]


def living_copies(registry: RegistryApi, record: VersionRecord) -> list[VersionRecord]:
    """Return the other versions with the files of a version that are not retired, sorted by reference."""
    return [copy for copy in _copies(registry, record) if copy.retired is None]


def retired_copies(registry: RegistryApi, record: VersionRecord) -> list[VersionRecord]:
    """Return the other versions with the files of a version that are retired, sorted by reference."""
    return [copy for copy in _copies(registry, record) if copy.retired is not None]


def _copies(registry: RegistryApi, record: VersionRecord) -> list[VersionRecord]:
    others = [one for one in registry.state.with_content(record.registered.manifest) if one.ref != record.ref]
    namespaces = {ModelRef(other.registered.model).namespace for other in others}
    readable = {namespace for namespace in namespaces if registry.may(Action.READ, namespace)}
    found = (other for other in others if ModelRef(other.registered.model).namespace in readable)
    return sorted(found, key=lambda other: other.ref)
