"""Results of an evaluation: recorded on the version, and written to a file."""

from __future__ import annotations

from pathlib import Path

from llamafarm_ray.evaluation import EvaluationResult
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.state.records import EVALUATED_ON
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel
from llamafarm_ray.workflows.versions.metrics import add_result, merged_results, write_json

__all__ = ["store_result", "write_result"]


def store_result(registry: RegistryApi, model: EvaluatedModel, result: EvaluationResult) -> str | None:
    """Record a result on a registered version, beside its results of other benchmarks.

    An adapter's results on other files than those that it was trained on are kept apart.

    Returns:
        The version's reference; None for a folder, which has no version.

    Raises:
        AccessDeniedError: the principal may not record metrics.
    """
    if not model.version:
        return None
    if model.is_elsewhere:
        known = registry.resolve(model.version).evaluated_on
        earlier = known.get(model.base_weights, {})
        found = {EVALUATED_ON: {**known, model.base_weights: merged_results(model.version, earlier, result.to_dict())}}
        registry.record_metrics(model.version, found, reason="evaluated on a form of its base")
        return model.version
    add_result(registry, model.version, result, reason="evaluated")
    return model.version


def write_result(result: EvaluationResult, path: Path) -> None:
    """Write a result as JSON, whole or not at all; `register --performance-metrics` reads it.

    A row for each question that was asked is beside the scores.

    Raises:
        InputError: the file can't be written.
    """
    write_json(result.to_dict() | ({"questions": result.questions} if result.questions else {}), path)
