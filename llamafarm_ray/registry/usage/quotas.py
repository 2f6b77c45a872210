"""Check a namespace's quota of stored bytes."""

from __future__ import annotations

from collections.abc import Iterable

from llamafarm_ray.errors import PolicyError
from llamafarm_ray.registry.governance.quota import Quota
from llamafarm_ray.registry.state import VersionRecord

__all__ = ["check_storage", "stored_bytes"]


def stored_bytes(versions: Iterable[VersionRecord]) -> int:
    """Return the bytes of versions whose files are kept, equal files once."""
    sizes = {one.registered.manifest: one.registered.size_bytes for one in versions if not one.purged}
    return sum(sizes.values())


def check_storage(
    quota: Quota, namespace: str, versions: Iterable[VersionRecord], manifest: str, size_bytes: int
) -> None:
    """Check that a namespace has room for a version.

    Args:
        manifest: digest of the new version's manifest; stored files need no more room.

    Raises:
        PolicyError: there is no room; the message has the bytes.
    """
    if quota.storage_bytes is None:
        return
    kept = list(versions)
    if any(one.registered.manifest == manifest and not one.purged for one in kept):
        return
    used = stored_bytes(kept)
    if used + size_bytes > quota.storage_bytes:
        where = f"Namespace {namespace!r}" if namespace else "The namespace without a name"
        raise PolicyError(
            f"{where} may keep {quota.storage_bytes:,} bytes, has {used:,}, and this version has {size_bytes:,} more.",
            rules=("storage",),
            hint="Retire versions and collect garbage (`llamafarm models retire`, `llamafarm models gc`), or ask an "
            "admin for more: llamafarm registry quota set.",
        )
