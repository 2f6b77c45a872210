"""Commands about quotas of namespaces."""

from __future__ import annotations

from dataclasses import dataclass

from llamafarm_ray.registry.commands.base import Context, Unbounded, event_of
from llamafarm_ray.registry.events import Event, QuotaSet
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.governance.quota import Quota
from llamafarm_ray.registry.state import RegistryState

__all__ = ["SetQuota"]


@dataclass(frozen=True)
class SetQuota(Unbounded):
    """Replace all limits of a namespace, as an admin of all of them: no principal raises a limit of their own."""

    action = Action.SET_POLICY
    where: str
    quota: Quota

    @property
    def target(self) -> str:
        """The namespace."""
        return self.where

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event; none where these are its limits."""
        del context
        if state.quota(self.where) == self.quota:
            return []
        return [event_of(QuotaSet, namespace=self.where, quota=self.quota)]
