"""Authentication and authorization of callers."""

from __future__ import annotations

import datetime as dt
import getpass
import os
from collections.abc import Collection
from dataclasses import dataclass

from llamafarm_ray.errors import AccessDeniedError
from llamafarm_ray.registry.governance.access import Action, allows, token_digest
from llamafarm_ray.registry.state import Principal, RegistryState

__all__ = ["UNKNOWN", "Identity", "authorize", "check_grants", "name_of"]

UNKNOWN = "unknown"
"""Name in the audit of callers without a valid token."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Claimed identity of a caller.

    Attributes:
        user: the operating system's user. It counts while there are no principals.
        token: proves which principal it is.
    """

    user: str
    token: str | None = None

    @classmethod
    def from_environment(cls) -> Identity:
        """``$LLAMAFARM_TOKEN`` and ``$LLAMAFARM_PRINCIPAL``, or the operating system's user."""
        user = os.environ.get("LLAMAFARM_PRINCIPAL") or getpass.getuser()
        return cls(user, os.environ.get("LLAMAFARM_TOKEN") or None)

    @property
    def digest(self) -> str:
        """The token's digest, or the user where there is none."""
        return token_digest(self.token) if self.token else self.user


def authorize(state: RegistryState, who: Identity, action: Action, namespaces: Collection[str]) -> str:
    """The name of the principal, if it may in all these namespaces; while there are no principals the user's.

    Raises:
        AccessDeniedError: there is no token, it is not good (any more), or its roles don't allow that.
    """
    if not state.principals:
        return who.user
    if who.token is None:
        raise AccessDeniedError(
            "This registry asks for a token, and none was given.", hint="Set LLAMAFARM_TOKEN to yours."
        )
    principal = _holder(state, who)
    if principal is None or principal.revoked:
        raise AccessDeniedError("The token is not (or no longer) known here.", hint="Ask an admin for a new one.")
    if not principal.is_valid(dt.datetime.now(dt.UTC)):  # by this clock, not by the newest commit's
        raise AccessDeniedError(
            f"The token of {principal.name!r} expired on {principal.expires:%Y-%m-%d %H:%M} UTC.",
            hint="Ask an admin for a new one.",
        )
    check_grants(principal, action, namespaces)
    return principal.name


def check_grants(principal: Principal, action: Action, namespaces: Collection[str]) -> None:
    """Check that a principal's roles allow an action in all these namespaces.

    Raises:
        AccessDeniedError: they don't; which role is missing, and where.
    """
    denied = sorted(name for name in namespaces if not allows(principal.grants, action, name))
    if denied:
        where = {"": "models without a namespace", "*": "every namespace"}.get(denied[0], f"namespace {denied[0]!r}")
        raise AccessDeniedError(
            f"{principal.name!r} may not {action}: that takes the role {action.least_role} for {where}.",
            hint="Ask an admin for it.",
        )


def name_of(state: RegistryState, who: Identity) -> str:
    """Return a caller's name in the audit, with or without permission."""
    if holder := _holder(state, who):
        return holder.name
    return UNKNOWN if state.principals else who.user


def _holder(state: RegistryState, who: Identity) -> Principal | None:
    """Return the principal that a token belongs to."""
    if not who.token:
        return None
    digest = token_digest(who.token)
    return next((known for known in state.principals.values() if known.token_digest == digest), None)
