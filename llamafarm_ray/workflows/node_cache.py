"""This machine's cache of pulled versions, with the names that the registry knows them by."""

from __future__ import annotations

from dataclasses import dataclass

from llamafarm_ray.config.values import MemorySize
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.access import EVERY_NAMESPACE, Action
from llamafarm_ray.storage.cache import CachedVersion
from llamafarm_ray.types import Digest

__all__ = ["NamedVersion", "cached_versions", "evict", "pin", "unpin"]


@dataclass(frozen=True, slots=True)
class NamedVersion:
    """A version in the cache, and the registered versions that have its files."""

    version: CachedVersion
    names: tuple[str, ...]


def cached_versions(registry: RegistryApi) -> list[NamedVersion]:
    """What is in this machine's cache, the most recently used first.

    Raises:
        AccessDeniedError: it takes the right to read every namespace.
    """
    registry.refresh()
    registry.allow(Action.READ, EVERY_NAMESPACE, target="cache")
    return [NamedVersion(version, _names(registry, version.digest)) for version in reversed(registry.content.cached())]


def pin(registry: RegistryApi, reference: str) -> str:
    """Keep a version in this machine's cache, once it is pulled; the version's reference.

    Raises:
        NotFoundError: there is no such version.
    """
    record = registry.resolve(reference)
    registry.content.pin(Digest(record.registered.manifest))
    return record.ref


def unpin(registry: RegistryApi, reference: str) -> str:
    """End a pin; the version's reference.

    Raises:
        NotFoundError: there is no such version.
    """
    record = registry.resolve(reference)
    registry.content.unpin(Digest(record.registered.manifest))
    return record.ref


def evict(registry: RegistryApi, limit: str) -> list[str]:
    """Cut this machine's cache down; what is pinned or in use stays.

    Args:
        registry: whose cache.
        limit: how much may stay: ``20GB``, or ``0``.

    Returns:
        the evicted versions' names, or digests where nothing has those files.

    Raises:
        InputError: that is no amount of bytes.
    """
    try:
        num_bytes = 0 if limit.strip() == "0" else MemorySize.parse(limit).num_bytes
    except ValueError as error:
        raise InputError(f"{limit!r} is no size: it {error}.", hint="Write it like 20GB, 512Mi or 0.") from None
    registry.refresh()
    return [", ".join(_names(registry, digest)) or digest for digest in registry.content.evict(num_bytes)]


def _names(registry: RegistryApi, digest: Digest) -> tuple[str, ...]:
    return tuple(sorted(record.ref for record in registry.state.versions() if record.registered.manifest == digest))
