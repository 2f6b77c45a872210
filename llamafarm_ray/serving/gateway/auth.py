"""Authentication and access to models: API keys are the tokens of the registry's principals.

Nothing here asks over a network: it looks into the registry's state that a replica keeps current
(:class:`~llamafarm_ray.registry.remote.view.RegistryView`). A revoked or expired key ends within a second.
"""

from __future__ import annotations

import datetime as dt
import hmac
import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from llamafarm_ray.config import Deployment
from llamafarm_ray.errors import AccessDeniedError, InputError
from llamafarm_ray.registry.governance.access import Action, Role, allows, token_digest
from llamafarm_ray.registry.state import Principal, RegistryState
from llamafarm_ray.serving.http.asgi import Header
from llamafarm_ray.serving.http.cors import check_host
from llamafarm_ray.serving.http.errors import HostError, UnauthenticatedError
from llamafarm_ray.types import ModelRef

__all__ = ["ANONYMOUS", "Keys", "Tenant", "check_keys"]

ANONYMOUS = "anonymous"
"""Name of callers without a key where none is required. They share one account of limits."""
_MAX_KEY_BYTES = 512


@dataclass(frozen=True, slots=True)
class Tenant:
    """Sender of a request: the holder of a key.

    Attributes:
        grants: its roles by namespace; ``None`` where no key is asked for, and everything served may be used.
    """

    name: str = ANONYMOUS
    grants: Mapping[str, Role] | None = field(default=None, hash=False)

    def may_use(self, model: str) -> bool:
        """Return True if it has a role in the namespace of a model's name; the model need not exist."""
        return self.grants is None or allows(self.grants, Action.READ, ModelRef(_name(model)).namespace)

    def is_admin(self, namespace: str | None = None) -> bool:
        """Return True for an admin of a namespace; of any, where none is given."""
        if self.grants is None:
            return True
        if namespace is None:
            return Role.ADMIN in self.grants.values()
        return allows(self.grants, Action.MANAGE_PRINCIPALS, namespace)

    def check(self, model: str) -> None:
        """Refuse a model of a namespace in which the tenant has no role, in the same words whether or not it exists.

        Raises:
            AccessDeniedError: there is none.
        """
        if not self.may_use(model):
            raise AccessDeniedError(
                f"The key may not use {_name(model)[:120]!r}.", hint="GET /v1/models lists what it may use."
            )


class Keys:
    """Tells whose key a request carries.

    Args:
        state: gives the registry's state as of now.
        required: True to require a key always, False never, ``None`` once the registry has principals.
        allowed_hosts: names in the public DNS that requests without a key may call this server by.
        now: the time that keys expire by.
    """

    def __init__(
        self,
        state: Callable[[], RegistryState],
        *,
        required: bool | None = None,
        allowed_hosts: Iterable[str] = (),
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._state = state
        self._required = required
        self._allowed_hosts = frozenset(name.lower() for name in allowed_hosts)
        self._now = now
        self._seen: Mapping[str, Principal] | None = None
        self._by_digest: dict[str, Principal] = {}

    def are_asked_for(self, required: bool | None) -> bool:
        """Return True if an application with this ``deployment.require_key`` requires keys now."""
        return bool(self._state().principals) if required is None else required

    def admit_to(self, required: bool | None, allowed_hosts: Collection[str], headers: Iterable[Header]) -> bool:
        """Return True if a caller admitted here is admitted by other settings too, see :meth:`tenant`.

        Args:
            required: True if a key is required there.
            allowed_hosts: names, in lower case, that requests without a key may call it by.
            headers: the request's, which are the same there (names in lower case).
        """
        if self.are_asked_for(required):
            return self.are_asked_for(self._required)  # then it has shown a key
        try:
            check_host(headers, allowed_hosts)
        except HostError:
            return False
        return True

    def tenant(self, headers: Iterable[Header]) -> Tenant:
        """Return the sender of a request with these headers (names in lower case).

        A key is found by its SHA-256, so how long that takes says nothing of the key; the digests are compared in
        constant time on top.

        Raises:
            UnauthenticatedError: a key is asked for and none was given, or it is not valid.
            HostError: none is asked for, and a web page may have sent the request.
        """
        principals = self._state().principals
        if not self.are_asked_for(self._required):
            check_host(headers, self._allowed_hosts)
            return Tenant()
        digest = token_digest(_bearer(headers))
        if principals is not self._seen:  # states never change: another object is another commit
            self._by_digest = {known.token_digest: known for known in principals.values()}
            self._seen = principals
        principal = self._by_digest.get(digest)
        if (
            principal is None
            or not hmac.compare_digest(principal.token_digest, digest)
            or not principal.is_valid(self._now())
        ):
            raise UnauthenticatedError("The key is not (or no longer) valid.", hint="Ask an admin for a new one.")
        return Tenant(principal.name, principal.grants)


def check_keys(deployment: Deployment, state: RegistryState) -> None:
    """Refuse to open an endpoint on a network without any valid key, or by oversight without access control.

    Raises:
        InputError: the host is not this machine alone, or a key is asked for, while the registry has no principals.
    """
    if state.principals or deployment.require_key is False:
        return
    hint = "Add one: llamafarm registry principal add NAME --role admin."
    if deployment.require_key:
        raise InputError("deployment.require_key is true, but the registry has no principals.", hint=hint)
    if not _is_loopback(deployment.host):
        raise InputError(
            f"deployment.host {deployment.host!r} is open to the network, and the registry has no principals, so no "
            "key would be asked for.",
            hint=f"{hint} Or say deployment.require_key=false to let everybody in.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _bearer(headers: Iterable[Header]) -> str:
    """The token of ``Authorization: Bearer`` (https://www.rfc-editor.org/rfc/rfc6750#section-2.1)."""
    given = [value for name, value in headers if name == b"authorization"]
    scheme, _, token = given[0].partition(b" ") if given else (b"", b"", b"")
    if len(given) != 1 or scheme.lower() != b"bearer" or not 0 < len(token.strip()) <= _MAX_KEY_BYTES:
        raise UnauthenticatedError(
            "A key is asked for, and none was given." if not given else "The header Authorization holds no one key.",
            hint="Send 'Authorization: Bearer KEY'.",
        )
    return token.strip().decode("latin-1")


def _name(model: str) -> str:
    """The name in a reference or an engine name."""
    return re.split("[:@#;]", model, maxsplit=1)[0]
