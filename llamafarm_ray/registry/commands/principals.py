"""Commands about principals and their roles."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

from llamafarm_ray.errors import ConflictError, InputError
from llamafarm_ray.registry.commands.base import Context, Unbounded, event_of
from llamafarm_ray.registry.events import Event, PrincipalAdded, PrincipalGranted, PrincipalRevoked
from llamafarm_ray.registry.governance.access import Action, Role
from llamafarm_ray.registry.state import RegistryState

__all__ = ["AddPrincipal", "Grant", "Revoke"]


@dataclass(frozen=True)
class _OfPrincipal(Unbounded):
    name: str

    @property
    def target(self) -> str:
        """The principal's name."""
        return self.name


@dataclass(frozen=True)
class AddPrincipal(_OfPrincipal):
    """Let the holder of a token do something. The first one switches access control on, and must be an admin."""

    action = Action.MANAGE_PRINCIPALS
    token_digest: str = ""
    grants: Mapping[str, Role] = field(default_factory=dict)
    expires: dt.datetime | None = None

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        if self.name == "unknown":
            raise InputError(
                "'unknown' is what the audit calls those without a good token.", hint="Choose another name."
            )
        if not state.principals and (self.grants.get("*") is not Role.ADMIN or self.expires is not None):
            raise InputError(
                "The first principal must be an admin everywhere and without an expiry, or no one could add others.",
                hint="Say --role admin.",
            )
        if self.expires is not None and self.expires <= context.now:
            raise InputError(f"{self.expires:%Y-%m-%d %H:%M} is in the past.", hint="Give a later expiry.")
        return [
            event_of(
                PrincipalAdded,
                name=self.name,
                token_digest=self.token_digest,
                grants=dict(self.grants),
                expires=self.expires,
            )
        ]


@dataclass(frozen=True)
class Grant(_OfPrincipal):
    """Replace a principal's roles."""

    action = Action.MANAGE_PRINCIPALS
    grants: Mapping[str, Role] = field(default_factory=dict)

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        if self.grants.get("*") is not Role.ADMIN:
            _check_admin_remains(state, self.name)
        return [event_of(PrincipalGranted, name=self.name, grants=dict(self.grants))]


@dataclass(frozen=True)
class Revoke(_OfPrincipal):
    """Make a principal's token worthless."""

    action = Action.MANAGE_PRINCIPALS

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        _check_admin_remains(state, self.name)
        return [event_of(PrincipalRevoked, name=self.name)]


def _check_admin_remains(state: RegistryState, leaving: str) -> None:
    admins = {
        principal.name
        for principal in state.principals.values()
        if principal.grants.get("*") is Role.ADMIN and not principal.revoked and principal.expires is None
    }
    if admins == {leaving}:
        raise ConflictError(f"{leaving!r} is the last admin.", hint="Add another one first.")
