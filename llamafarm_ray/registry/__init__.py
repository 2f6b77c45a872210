"""Models, datasets, aliases and lineage: one append-only log of events, and the state it adds up to.

:class:`RegistryService` is the registry itself, in this process. :func:`connect` gives the same calls through the
cluster's registry actor, whose subscribers learn of a change within a second.
"""

from llamafarm_ray.registry.base import BaseModel, find_base
from llamafarm_ray.registry.events import (
    AliasMoved,
    DatasetRegistered,
    DeploymentRecorded,
    DeploymentRemoved,
    Event,
    SourceDocument,
    VersionRegistered,
)
from llamafarm_ray.registry.log import Commit, CommitLog
from llamafarm_ray.registry.service import RegistryService, check_name, open_registry
from llamafarm_ray.registry.state import ModelRecord, RegistryState, VersionRecord

__all__ = [
    "AliasMoved",
    "BaseModel",
    "Commit",
    "CommitLog",
    "DatasetRegistered",
    "DeploymentRecorded",
    "DeploymentRemoved",
    "Event",
    "ModelRecord",
    "RegistryService",
    "RegistryState",
    "SourceDocument",
    "VersionRecord",
    "VersionRegistered",
    "check_name",
    "find_base",
    "open_registry",
]
