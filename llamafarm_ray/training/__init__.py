"""Fine-tuning on Ray Train: methods, objectives, one loop, strategies."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamafarm_ray.training.branching import BeginWith
    from llamafarm_ray.training.inputs import TrainingCallbacks, TrainingInputs
    from llamafarm_ray.training.preparing import PreparedTokens, prepare_tokens
    from llamafarm_ray.training.result import Progress, TrainingResult
    from llamafarm_ray.training.token_files import TokenStore
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
    "BeginWith": "branching",
    "PreparedTokens": "preparing",
    "Progress": "result",
    "TokenStore": "token_files",
    "TrainingCallbacks": "inputs",
    "TrainingInputs": "inputs",
    "TrainingResult": "result",
    "prepare_tokens": "preparing",
    "train": "trainer",
}


def __getattr__(name: str) -> object:
    # Ray imports this package in every process that unpickles a function of ours; most need a part of it only.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
