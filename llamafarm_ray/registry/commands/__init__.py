"""Commands of a registry, as values: each has an action, a target and the events that follow.

A command decides from a state, the time and the principal; it reads nothing else. The service checks that the
principal may do it, then commits the events.
"""

from llamafarm_ray.registry.commands.aliases import (
    Approve,
    MoveAlias,
    RemoveAlias,
    Rollback,
    SetPolicy,
    previous_version,
)
from llamafarm_ray.registry.commands.base import Command, ContentMovedError, Context, check_stored, event_of
from llamafarm_ray.registry.commands.content import Condemn, Purge, references
from llamafarm_ray.registry.commands.deployments import RecordDeployment, RemoveDeployment
from llamafarm_ray.registry.commands.principals import AddPrincipal, Grant, Revoke
from llamafarm_ray.registry.commands.quotas import SetQuota
from llamafarm_ray.registry.commands.rollouts import (
    PauseRollout,
    PromoteRollout,
    ResumeRollout,
    StartRollout,
    StepRollout,
    StopRollout,
)
from llamafarm_ray.registry.commands.versions import (
    Bump,
    Deprecate,
    RecordMetrics,
    Register,
    RegisterDataset,
    Retire,
    Sign,
    Tag,
)

__all__ = [
    "AddPrincipal",
    "Approve",
    "Bump",
    "Command",
    "Condemn",
    "ContentMovedError",
    "Context",
    "Deprecate",
    "Grant",
    "MoveAlias",
    "PauseRollout",
    "PromoteRollout",
    "Purge",
    "RecordDeployment",
    "RecordMetrics",
    "Register",
    "RegisterDataset",
    "RemoveAlias",
    "RemoveDeployment",
    "ResumeRollout",
    "Retire",
    "Revoke",
    "Rollback",
    "SetPolicy",
    "SetQuota",
    "Sign",
    "StartRollout",
    "StepRollout",
    "StopRollout",
    "Tag",
    "check_stored",
    "event_of",
    "previous_version",
    "references",
]
