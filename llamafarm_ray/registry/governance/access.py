"""Access control: roles by namespace, and tokens of principals."""

from __future__ import annotations

import enum
import hashlib
import secrets
from collections.abc import Mapping

from llamafarm_ray.types import Digest

__all__ = ["EVERY_NAMESPACE", "Action", "Role", "allows", "new_token", "token_digest"]

EVERY_NAMESPACE = "*"
_PREFIX = "lfr_"
"""Mark by which secret scanners recognize a token."""
_TOKEN_BYTES = 32


class Role(enum.StrEnum):
    """Roles, each with the rights of those before it."""

    VIEWER = "viewer"
    DEVELOPER = "developer"
    DEPLOYER = "deployer"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        """0 for the least."""
        return list(Role).index(self)


class Action(enum.StrEnum):
    """Action on a registry, with the least role that may do it (:attr:`least_role`)."""

    READ = "read"
    REGISTER = "register"
    RECORD_METRICS = "record metrics"
    TAG = "tag"
    SIGN = "sign"
    REGISTER_DATASET = "register dataset"
    DEPRECATE = "deprecate"
    RETIRE = "retire"
    APPROVE = "approve"
    MOVE_ALIAS = "move alias"
    ROLL_OUT = "roll out"
    DEPLOY = "deploy"
    SET_POLICY = "set policy"
    MANAGE_PRINCIPALS = "manage principals"
    COLLECT_GARBAGE = "collect garbage"

    @property
    def least_role(self) -> Role:
        """The least role that may do this."""
        return _LEAST_ROLE[self]


_LEAST_ROLE = {
    Action.READ: Role.VIEWER,
    Action.REGISTER: Role.DEVELOPER,
    Action.RECORD_METRICS: Role.DEVELOPER,
    Action.TAG: Role.DEVELOPER,
    Action.SIGN: Role.DEVELOPER,
    Action.REGISTER_DATASET: Role.DEVELOPER,
    Action.DEPRECATE: Role.DEVELOPER,
    Action.RETIRE: Role.DEPLOYER,
    Action.APPROVE: Role.DEPLOYER,
    Action.MOVE_ALIAS: Role.DEPLOYER,
    Action.ROLL_OUT: Role.DEPLOYER,
    Action.DEPLOY: Role.DEPLOYER,
    Action.SET_POLICY: Role.ADMIN,
    Action.MANAGE_PRINCIPALS: Role.ADMIN,
    Action.COLLECT_GARBAGE: Role.ADMIN,
}


def allows(grants: Mapping[str, Role], action: Action, namespace: str) -> bool:
    """Return True if these grants allow an action in a namespace."""
    roles = (grants.get(namespace), grants.get(EVERY_NAMESPACE))
    return any(role is not None and role.rank >= action.least_role.rank for role in roles)


def new_token() -> str:
    """A token with 256 random bits. Only its digest is kept, so it can be shown once."""
    return _PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def token_digest(token: str) -> Digest:
    """Return the stored digest of a token. A token holds 256 random bits, so a plain hash can't be searched for it."""
    return Digest(f"sha256:{hashlib.sha256(token.encode(errors='surrogateescape')).hexdigest()}")
