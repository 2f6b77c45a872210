"""Quotas of a namespace: device hours in a month, tokens in a day, bytes in the registry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from llamafarm_ray.errors import PolicyError

if TYPE_CHECKING:
    from llamafarm_ray.registry.state import VersionRecord

__all__ = ["Quota", "check_storage", "stored_bytes"]


class Quota(BaseModel):
    """Limits of a namespace. An empty quota limits nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device_hours: float | None = Field(
        default=None, ge=0, le=1e9, description="Hours of GPUs, or of CPU cores without one, in a calendar month (UTC)."
    )
    tokens_per_day: int | None = Field(
        default=None, ge=0, le=10**15, description="Tokens of prompts and answers on a day (UTC)."
    )
    storage_bytes: int | None = Field(
        default=None, ge=0, le=2**60, description="Bytes of the versions whose files are kept."
    )

    @property
    def is_empty(self) -> bool:
        """True if it limits nothing."""
        return self == Quota()


def stored_bytes(versions: Iterable[VersionRecord]) -> int:
    """Return the bytes of versions whose files are kept, equal files once."""
    sizes = {one.registered.manifest: one.registered.size_bytes for one in versions if not one.purged}
    return sum(sizes.values())


def check_storage(
    quota: Quota, namespace: str, versions: Iterable[VersionRecord], manifest: str, size_bytes: int
) -> None:
    """Check that a namespace has room for a version.

    Args:
        quota: the namespace's.
        namespace: its name.
        versions: versions of the namespace.
        manifest: digest of the new version's manifest; files that are there need no more room.
        size_bytes: size of its files.

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
