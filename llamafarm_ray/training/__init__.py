"""Fine-tuning on Ray Train: methods, objectives, one loop, strategies."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamafarm_ray.training.fault_tolerance.branching import BeginWith
    from llamafarm_ray.training.plan.inputs import TrainingCallbacks, TrainingInputs
    from llamafarm_ray.training.plan.preparing import PreparedTokens, prepare_tokens
    from llamafarm_ray.training.result import Progress, TrainingResult
    from llamafarm_ray.training.tokens.token_files import TokenStore
    from llamafarm_ray.training.trainer import train

__all__ = [
    "BeginWith",
    "PreparedTokens",
    "Progress",
    "TokenStore",
    "TrainingCallbacks",
    "TrainingInputs",
    "TrainingResult",
    "prepare_tokens",
    "train",
]

_HOME = {
    "BeginWith": "fault_tolerance.branching",
    "PreparedTokens": "plan.preparing",
    "Progress": "result",
    "TokenStore": "tokens.token_files",
    "TrainingCallbacks": "plan.inputs",
    "TrainingInputs": "plan.inputs",
    "TrainingResult": "result",
    "prepare_tokens": "plan.preparing",
    "train": "trainer",
}


def __getattr__(name: str) -> object:
    # Ray imports this package in every process that unpickles a function of ours; most need a part of it only.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
