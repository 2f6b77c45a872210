"""The registry's state: a pure function of the log. No input, no output, no clock.

A state never changes: taking a commit in gives a new one that shares what stayed the same (hash array mapped tries,
https://github.com/MagicStack/immutables). Readers need no lock, a lost race costs nothing to undo, and the state of
last Tuesday is a value like any other.
"""

from llamafarm_ray.registry.state.records import (
    AliasMove,
    Approval,
    ModelRecord,
    Principal,
    RolloutChange,
    RolloutRecord,
    VersionRecord,
)
from llamafarm_ray.registry.state.whole import RegistryState

__all__ = [
    "AliasMove",
    "Approval",
    "ModelRecord",
    "Principal",
    "RegistryState",
    "RolloutChange",
    "RolloutRecord",
    "VersionRecord",
]
