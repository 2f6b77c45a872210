"""``GET /v1/health``: the findings of ``llamafarm models health``, for admins' keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from urllib.parse import parse_qs

from llamafarm_ray.errors import AccessDeniedError, InputError, NotFoundError
from llamafarm_ray.registry.references import namespace_of
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.serving.gateway.auth import Tenant
from llamafarm_ray.serving.health.looks import Plan
from llamafarm_ray.serving.health.references import References
from llamafarm_ray.serving.health.versions import (
    Recorded,
    VersionHealth,
    chosen_versions,
    health_dict,
)
from llamafarm_ray.serving.http.asgi import Send, answer
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelRef

__all__ = ["HEALTH_ROUTE", "HealthReport"]

HEALTH_ROUTE: Final = "/v1/health"
_FRESH_S: Final = 10.0
"""Replicas write their records every ten seconds, so looking more often finds nothing new."""
_MAX_QUERY: Final = 4096


class HealthReport:
    """The health of all versions that replicas recorded below a home.

    Requests within ten seconds share one look, which is made in a thread: requests to models don't wait for it.

    Args:
        state: gives the registry's state as of now.
        clock: tells seconds.
    """

    def __init__(
        self, home: Location, state: Callable[[], RegistryState], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._home = home
        self._state = state
        self._clock = clock
        self._looking = asyncio.Lock()
        self._found: Sequence[VersionHealth] = ()
        self._fresh_until: float | None = None

    async def answer(self, query: bytes, tenant: Tenant, send: Send) -> None:
        """Answer a request.

        Args:
            query: the query string; ``model`` is a model, version or alias, and may be repeated. Without it all
                versions are listed that the key administers.

        Raises:
            AccessDeniedError: the key is no admin's, or not of a model that is named.
            NotFoundError: nothing of a name was recorded.
            InputError: the query has something else in it, or a name is no reference.
        """
        names = _names(query)
        if not tenant.is_admin() or not all(tenant.is_admin(namespace_of(name)) for name in names):
            raise AccessDeniedError(
                "Health takes an admin's key.", hint="llamafarm registry principal list shows roles."
            )
        found = {one.ref: one for one in await self._look() if tenant.is_admin(namespace_of(one.ref))}
        chosen = chosen_versions(self._resolve(found), names, list(found)) if names else found
        versions = [health_dict(found[ref]) for ref in sorted(chosen)]
        await answer(send, 200, {"object": "health", "versions": versions})

    def _resolve(self, found: Iterable[str]) -> Callable[[ModelRef], VersionRecord]:
        """Return a function that resolves references to models with records: hints name no others."""
        models = {ref.partition(":")[0] for ref in found}

        def resolve(ref: ModelRef) -> VersionRecord:
            if ref.name not in models:
                raise NotFoundError(f"No requests to {ref.name!r} are on record.")
            return self._state().resolve(ref)

        return resolve

    async def _look(self) -> Sequence[VersionHealth]:
        async with self._looking:
            if self._fresh_until is None or self._clock() >= self._fresh_until:
                self._found = await asyncio.to_thread(self._read)
                self._fresh_until = self._clock() + _FRESH_S
            return self._found

    def _read(self) -> list[VersionHealth]:
        recorded, references, state = Recorded.read(self._home), References(self._home), self._state()
        return [recorded.look(ref, references, state, Plan()) for ref in recorded.blocks]


def _names(query: bytes) -> list[str]:
    try:
        given = parse_qs(query[:_MAX_QUERY].decode("ascii"), keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        given = {"": []}
    if set(given) - {"model"}:
        raise InputError("The query is not understood.", hint=f"Write {HEALTH_ROUTE}?model=NAME, or no query.")
    return given.get("model", [])
