"""The registry through the cluster's actor: the same calls, from any process of the cluster."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from llamafarm_ray.errors import AccessDeniedError, ClusterError, LlamaFarmError, PolicyError
from llamafarm_ray.registry.api import Outcome, RegistryApi
from llamafarm_ray.registry.commands import Command, ContentMovedError
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.history.snapshots import Snapshots
from llamafarm_ray.registry.remote.actor import registry_actor
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.registry.updates import Update
from llamafarm_ray.storage import Location

__all__ = ["RegistryClient", "connect"]


class RegistryClient(RegistryApi):
    """A registry whose commands the cluster's actor commits. Files go to and from the home directly.

    Args:
        home: home of the registry, as every node of the cluster reaches it.
        token: proves which principal it is; by default ``$LLAMAFARM_TOKEN``.
        cache: node-local folder for pulled versions.
    """

    def __init__(self, home: str, *, token: str | None = None, cache: Path | None = None) -> None:
        super().__init__(Location(home), token=token, cache=cache)
        snapshot = Snapshots(self.home).newest()
        if snapshot is not None:
            self._state = snapshot.state
        self._lock = threading.Lock()
        self._actor = registry_actor(home)
        self.refresh()

    def refresh(self) -> RegistryState:
        """The state with everything in it that was committed up to now."""
        known = self._state
        update = Update.of_bytes(self._ask("changes_after", known.sequence, known.last_key, 0.0))
        with self._lock:
            self._state = update.after(self._state)
            return self._state

    def submit(self, command: Command, *, reason: str = "", idempotency_key: str | None = None) -> Outcome:
        """Run a command, see :meth:`RegistryApi.submit`. An actor that dies meanwhile runs it once."""
        key = idempotency_key or uuid.uuid4().hex
        outcome: Outcome = self._ask("submit", command, self._identity, reason, key)
        self.refresh()
        return outcome

    def may(self, action: Action, namespace: str) -> bool:
        """Return True if the caller may do an action. Records nothing."""
        return not self._state.principals or bool(self._ask("may", action, namespace, self._identity))

    def record_refusal(self, action: Action, target: str, error: AccessDeniedError | PolicyError) -> None:
        """Put a refusal into the audit trail."""
        self._ask("record_refusal", action, target, error, self._identity)

    def allow(self, action: Action, namespace: str, *, target: str = "") -> None:
        """Check that the caller may do an action that is no command."""
        if self._state.principals:
            self._ask("allow", action, namespace, target, self._identity)

    def _ask(self, method: str, *args: object) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*args))
        except RayTaskError as error:
            if isinstance(error.cause, (LlamaFarmError, ContentMovedError)):
                raise error.cause from None
            raise
        except RayError as error:
            raise ClusterError(f"The registry actor does not answer: {error}.", hint="Is the cluster up?") from error


def connect(home: str | None = None, *, token: str | None = None) -> RegistryClient:
    """The registry at ``home`` (by default ``$LLAMAFARM_HOME`` or ``~/.llamafarm``) through the connected cluster."""
    return RegistryClient(home or os.environ.get("LLAMAFARM_HOME") or "~/.llamafarm", token=token)
