"""Principals of a registry: add them, change their roles, revoke them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from llamafarm_ray.errors import InputError, did_you_mean
from llamafarm_ray.registry import RegistryApi, check_alias
from llamafarm_ray.registry.commands import Grant, Revoke
from llamafarm_ray.registry.governance.access import EVERY_NAMESPACE, Action, Role
from llamafarm_ray.registry.state import Principal

__all__ = ["add_principal", "grant", "principal_status", "principals", "revoke"]


def add_principal(
    registry: RegistryApi,
    name: str,
    role: str,
    namespaces: Sequence[str] = (),
    *,
    expires: dt.datetime | None = None,
    reason: str = "",
) -> str:
    """Add a principal with a role.

    Args:
        registry: registry that gets the principal.
        role: viewer, developer, deployer or admin.
        namespaces: namespaces of its roles; by default all.
        reason: reason, for the history.

    Returns:
        the token. It is kept nowhere.

    Raises:
        InputError: no such role, or the name is none.
        ConflictError: there is such a principal.
    """
    return registry.add_principal(name, _grants(role, namespaces), expires=expires, reason=reason)


def grant(
    registry: RegistryApi, name: str, role: str, namespaces: Sequence[str] = (), *, reason: str = ""
) -> Principal:
    """Replace all that a principal may by one role.

    Raises:
        InputError: no such role.
        NotFoundError: no such principal.
        ConflictError: it is the last admin.
    """
    check_alias(name)
    registry.submit(Grant(name, _grants(role, namespaces)), reason=reason)
    return registry.refresh().principals[name]


def revoke(registry: RegistryApi, name: str, *, reason: str = "") -> None:
    """Make a principal's token worthless.

    Raises:
        NotFoundError: no such principal.
        ConflictError: it is the last admin.
    """
    check_alias(name)
    registry.submit(Revoke(name), reason=reason)


def principals(registry: RegistryApi, *, at: dt.datetime | None = None) -> list[Principal]:
    """Everybody who may or might do something, by name.

    Args:
        registry: the registry to read.
        at: as of when; now by default.

    Raises:
        AccessDeniedError: it takes the right to read every namespace.
    """
    now = registry.refresh()
    registry.allow(Action.READ, EVERY_NAMESPACE, target="principals")
    state = now if at is None else registry.state_at(at)
    return [state.principals[name] for name in sorted(state.principals)]


def principal_status(principal: Principal, now: dt.datetime) -> str:
    """``active``, ``expired`` or ``revoked``."""
    if principal.revoked:
        return "revoked"
    return "expired" if principal.expires is not None and principal.expires <= now else "active"


def _grants(role: str, namespaces: Sequence[str]) -> dict[str, Role]:
    known = {known.value: known for known in Role}
    if role not in known:
        raise InputError(f"{role!r} is no role.", hint=did_you_mean(role, known))
    for namespace in namespaces:
        if namespace not in {EVERY_NAMESPACE, ""}:
            check_alias(namespace)
    return dict.fromkeys(namespaces or (EVERY_NAMESPACE,), known[role])
