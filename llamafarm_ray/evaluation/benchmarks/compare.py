"""Benchmarks of a model beside its baseline's, on one backend."""

from __future__ import annotations

from collections.abc import Mapping

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.benchmarks.asked import AskedModel
from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan, run_benchmarks
from llamafarm_ray.evaluation.benchmarks.safety import is_safety_task, safety_scores
from llamafarm_ray.evaluation.benchmarks.store import ResultStore
from llamafarm_ray.evaluation.benchmarks.workers import Workers
from llamafarm_ray.evaluation.item_scores import ItemScores
from llamafarm_ray.evaluation.progress import Report, part_of
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult, now

__all__ = ["check_one_backend", "compare_benchmarks"]


def check_one_backend(model: str, baseline: str) -> None:
    """Check that two models are asked on one engine: scores of two are not the same measure.

    Raises:
        InputError: they differ.
    """
    if model != baseline:
        raise InputError(
            f"The model's benchmarks are asked on {model}, and the baseline's on {baseline}: their scores can't be "
            "compared.",
            hint="Set evaluation.backend to one that takes both, or leave the baseline out.",
        )


def compare_benchmarks(
    plan: BenchmarkPlan,
    model: AskedModel,
    baseline: AskedModel | None,
    workers: Workers,
    *,
    model_id: str,
    store: ResultStore | None,
    report: Report,
) -> EvaluationResult:
    """Run benchmarks on a model and, where there is one, its baseline.

    Args:
        baseline: the model to compare with, on the same backend.
        report: called with the current activity and the fraction of the whole that is done.

    Raises:
        UserError: a model or a benchmark is unusable, or the backends differ.
        InfrastructureError: an endpoint or a worker fails.
    """
    if baseline is None:
        return _result(model_id, run_benchmarks(plan, model, workers, store=store, on_progress=report), {})
    check_one_backend(model.backend, baseline.backend)
    # The model first: an adapter's base is then open already.
    found = run_benchmarks(plan, model, workers, store=store, on_progress=part_of(report, "", 0.0, 0.5))
    before = run_benchmarks(plan, baseline, workers, store=store, on_progress=part_of(report, "baseline: ", 0.5, 0.5))
    return _result(model_id, found, before)


def _result(
    model_id: str, found: Mapping[str, BenchmarkScores], before: Mapping[str, BenchmarkScores]
) -> EvaluationResult:
    """Return scores beside a baseline's where there is one; those of tasks about safety are risks.

    Differences from the baseline are corrected for the number of metrics of all benchmarks together.
    """
    named = {name: safety_scores(name, scores) for name, scores in found.items()}
    beside = {name: one.beside(before[name]) if name in before else one for name, one in named.items()}
    for name in beside.keys() & before.keys():
        pairs = (found[name].items or ItemScores()).paired_with(before[name].items or ItemScores())
        beside[name] = beside[name].compared(pairs)
    risk = {name: one for name, one in beside.items() if is_safety_task(name)}
    benchmarks = {name: one for name, one in beside.items() if name not in risk}
    return EvaluationResult(model_id, now(), benchmarks, risk=risk).corrected()
