"""Evaluation of a model on held-out examples, beside its base model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamafarm_ray.evaluation.evaluator import evaluate
    from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult

__all__ = ["BenchmarkScores", "EvaluationResult", "evaluate"]

_HOME = {"BenchmarkScores": "result", "EvaluationResult": "result", "evaluate": "evaluator"}


def __getattr__(name: str) -> object:
    # Results are read by programs that never evaluate, and need no torch for it.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
