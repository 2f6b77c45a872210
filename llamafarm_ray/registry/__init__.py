"""Models, datasets, aliases and lineage: one append-only log of events, and the state it adds up to.

:class:`RegistryService` is the registry itself, in this process.
:class:`llamafarm_ray.registry.remote.client.RegistryClient` has the same calls (:class:`RegistryApi`) through the
cluster's registry actor, whose subscribers learn of a change within a second.
"""

from llamafarm_ray.registry.api import Outcome, RegistryApi
from llamafarm_ray.registry.base import BaseModel, base_here, find_base, is_registered
from llamafarm_ray.registry.events import (
    AdapterFacts,
    DatasetRegistered,
    DeploymentRecorded,
    Event,
    SourceDocument,
    VersionRegistered,
)
from llamafarm_ray.registry.governance.policy import Policy
from llamafarm_ray.registry.identity import Identity
from llamafarm_ray.registry.log import Change, Commit, CommitLog, Head
from llamafarm_ray.registry.references import check_alias, check_free_for, check_name, check_new_alias
from llamafarm_ray.registry.rollouts import Guards, Plan, RolloutStatus
from llamafarm_ray.registry.service import RegistryService, open_registry, registry_home
from llamafarm_ray.registry.state import ModelRecord, RegistryState, RolloutRecord, VersionRecord

__all__ = [
    "AdapterFacts",
    "BaseModel",
    "Change",
    "Commit",
    "CommitLog",
    "DatasetRegistered",
    "DeploymentRecorded",
    "Event",
    "Guards",
    "Head",
    "Identity",
    "ModelRecord",
    "Outcome",
    "Plan",
    "Policy",
    "RegistryApi",
    "RegistryService",
    "RegistryState",
    "RolloutRecord",
    "RolloutStatus",
    "SourceDocument",
    "VersionRecord",
    "VersionRegistered",
    "base_here",
    "check_alias",
    "check_free_for",
    "check_name",
    "check_new_alias",
    "find_base",
    "is_registered",
    "open_registry",
    "registry_home",
]
