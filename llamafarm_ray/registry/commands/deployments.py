"""Commands about deployments: the versions that an application serves."""

from __future__ import annotations

from dataclasses import dataclass

from llamafarm_ray.registry.commands.base import Command, Context
from llamafarm_ray.registry.events import DeploymentRecorded, DeploymentRemoved, Event
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.state import RegistryState

__all__ = ["RecordDeployment", "RemoveDeployment"]


@dataclass(frozen=True)
class _OfDeployment(Command):
    action = Action.DEPLOY
    deployment: DeploymentRecorded

    @property
    def target(self) -> str:
        """The application's name."""
        return self.deployment.application

    @property
    def namespaces(self) -> set[str]:
        """Those of its adapters; without any that of the base."""
        names = self.deployment.adapters or (self.deployment.base_model,)
        return {name.partition("/")[0] if name.count("/") == 1 else "" for name in names}


@dataclass(frozen=True)
class RecordDeployment(_OfDeployment):
    """Record a running deployment."""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del state, context
        return [self.deployment]


@dataclass(frozen=True)
class RemoveDeployment(_OfDeployment):
    """Take a deployment off the record, if it is still the recorded one."""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event; none where another deployment took its place, or none is recorded."""
        del context
        if state.deployments.get(self.deployment.application) != self.deployment:
            return []
        return [DeploymentRemoved(application=self.deployment.application)]
