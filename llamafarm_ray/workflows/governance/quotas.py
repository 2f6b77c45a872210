"""Quotas of namespaces: their limits and use, and the check before work on devices."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from pydantic import ValidationError

from llamafarm_ray.config import MemorySize
from llamafarm_ray.errors import InputError, PolicyError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.commands import SetQuota
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.usage import Quota, read_ledger, stored_bytes
from llamafarm_ray.types import NAME, ModelRef

__all__ = [
    "NO_NAMESPACE",
    "QuotaUse",
    "check_device_hours",
    "parse_namespace",
    "parse_quota",
    "quota_use",
    "quotas",
    "set_quota",
]

NO_NAMESPACE = "-"
"""The spelling of the namespace of names without one."""
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """Limits of a namespace, and its use.

    Args:
        device_hours: hours of devices in this calendar month (UTC).
        num_tokens: tokens of today (UTC).
        storage_bytes: bytes of the versions whose files are kept.
    """

    quota: Quota
    device_hours: float
    num_tokens: int
    storage_bytes: int

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        used = {
            "device_hours": round(self.device_hours, 6),
            "tokens_per_day": self.num_tokens,
            "storage_bytes": self.storage_bytes,
        }
        return {"limits": self.quota.model_dump(mode="json"), "used": used}


def quotas(registry: RegistryApi) -> dict[str, QuotaUse]:
    """Return the limits of all namespaces that have some and that the caller may read, with their use."""
    state = registry.refresh()
    names = sorted(name for name, quota in state.quotas.items() if not quota.is_empty)
    return {name: quota_use(registry, name) for name in names if registry.may(Action.READ, name)}


def quota_use(registry: RegistryApi, namespace: str) -> QuotaUse:
    """Return the limits of a namespace, and its use up to now.

    Raises:
        AccessDeniedError: the caller may not read the namespace.
    """
    state = registry.refresh()
    registry.allow(Action.READ, namespace, target=namespace or "quota")
    today = dt.datetime.now(dt.UTC).date()
    device_h, num_tokens = _device_hours(registry, namespace), 0
    for key, used in read_ledger(registry.home, today, today).items():
        if key.namespace == namespace:
            num_tokens += used.num_tokens
    return QuotaUse(state.quota(namespace), device_h, num_tokens, stored_bytes(state.versions_in(namespace)))


def set_quota(registry: RegistryApi, namespace: str, quota: Quota, *, reason: str = "") -> bool:
    """Replace the limits of a namespace; return True if that changed anything.

    Raises:
        InputError: that is no namespace's name.
        AccessDeniedError: it takes an admin of every namespace.
    """
    return bool(registry.submit(SetQuota(namespace, quota), reason=reason).events)


def parse_namespace(text: str) -> str:
    """Read a namespace's name; ``-`` is that of names without one.

    Raises:
        InputError: it is none.
    """
    if text == NO_NAMESPACE:
        return ""
    if not re.fullmatch(NAME, text):
        hint = f"Write team-a for models such as team-a/bot, or {NO_NAMESPACE} for those without a namespace."
        raise InputError(f"{text[:120]!r} is no namespace.", hint=hint)
    return text


def parse_quota(device_hours: float | None, tokens_per_day: int | None, storage: str | None) -> Quota:
    """Read limits as people write them.

    Args:
        device_hours: hours in a month.
        tokens_per_day: tokens on a day.
        storage: bytes, or an amount such as ``50Gi``.

    Raises:
        InputError: one of them is unusable, and says which.
    """
    try:
        size = MemorySize.parse(storage).num_bytes if storage is not None else None
    except ValueError as error:
        raise InputError(f"--storage {storage!r} {error}.") from None
    try:
        return Quota(device_hours=device_hours, tokens_per_day=tokens_per_day, storage_bytes=size)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{first['loc'][0]} is unusable: {first['msg']} (it is {first['input']!r}).") from None


def check_device_hours(registry: RegistryApi, name: str) -> None:
    """Check that a namespace may use devices: before a training or a sweep begins.

    Args:
        registry: registry with quotas and ledger.

    Raises:
        PolicyError: the hours of this month are used up; the message has the hours.
    """
    namespace = ModelRef(name).namespace
    limit = registry.refresh().quota(namespace).device_hours
    if limit is None or (used := _device_hours(registry, namespace)) < limit:
        return
    where = f"Namespace {namespace!r}" if namespace else "The namespace without a name"
    until = _next_month(dt.datetime.now(dt.UTC).date())
    raise PolicyError(
        f"{where} may use {limit:,g} device hours a month, and has used {used:,.3f}.",
        rules=("device_hours",),
        hint=f"It may again from {until} (UTC) on. An admin can raise it: llamafarm registry quota set "
        f"{namespace or NO_NAMESPACE} --device-hours ...; `llamafarm cluster cost` says what used them.",
    )


def _device_hours(registry: RegistryApi, namespace: str) -> float:
    """Return the hours of devices that a namespace used in this calendar month (UTC)."""
    today = dt.datetime.now(dt.UTC).date()
    found = read_ledger(registry.home, today.replace(day=1), today)
    return sum(used.device_s for key, used in found.items() if key.namespace == namespace) / _HOUR_S


def _next_month(day: dt.date) -> dt.date:
    return (day.replace(day=28) + dt.timedelta(days=4)).replace(day=1)
