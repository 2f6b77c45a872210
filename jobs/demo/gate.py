"""The rule that a version has to meet before `production` points at it, and the measurement that it asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llamafarm_ray.config import Config
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.workflows.evaluation.results import write_result
from llamafarm_ray.workflows.evaluation.run import EvaluationRun
from llamafarm_ray.workflows.governance.policies import parse_policy, set_policy

__all__ = ["measure_perplexity", "set_gate"]


def set_gate(registry: RegistryApi, base_perplexity: float, least_gain: float) -> str:
    """Let `production` point only at versions whose perplexity is a factor below the base's; return the rule.

    A version that was not measured does not meet it.
    """
    rule = f"perplexity<{base_perplexity / least_gain:.4g}"
    set_policy(registry, "production", parse_policy([rule]), reason="the demo: nothing is promoted unmeasured")
    return rule


def measure_perplexity(
    config: Config, registry: RegistryApi, model: Path, output: Path, on_progress: Callable[[str, float], None]
) -> dict[str, float]:
    """Measure the perplexity of a later edition's adapter beside its base's, and write the result; no more is asked."""
    only = {"metrics": ("perplexity",), "questions": None, "corpus": None, "forgetting": False}
    evaluation = config.evaluation.model_copy(update=only)
    run = EvaluationRun.prepare(config.model_copy(update={"evaluation": evaluation}), registry, str(model))
    result = run.run(on_progress=on_progress)
    write_result(result, output)
    scores = result.benchmarks["held_out"]
    return {"base": (scores.baseline or {})["perplexity"], "adapter": scores.metrics["perplexity"]}
