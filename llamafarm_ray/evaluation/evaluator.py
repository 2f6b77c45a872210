"""Evaluate on the caller's Ray: one task, near a GPU if there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import ray

from llamafarm_ray.errors import ClusterError, InfrastructureError, InputError, LlamaFarmError
from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan
from llamafarm_ray.evaluation.benchmarks.store import ResultStore
from llamafarm_ray.evaluation.custom.sets import CustomSet
from llamafarm_ray.evaluation.result import EvaluationResult
from llamafarm_ray.models.foreign import first_line

__all__ = ["evaluate"]


def evaluate(
    *,
    base_model: Path,
    adapter: Path | None,
    rows: list[dict[str, Any]],
    metrics: Sequence[str],
    max_new_tokens: int,
    model_id: str,
    baseline: bool = True,
    custom: Sequence[CustomSet] = (),
    benchmarks: BenchmarkPlan | None = None,
    store: ResultStore | None = None,
    on_progress: Callable[[str, float], None] | None = None,
) -> EvaluationResult:
    """Measure a model on examples, beside its base model.

    Args:
        base_model: folder of the base model; must be readable where Ray runs the task.
        adapter: folder of a peft adapter on it; None measures the base model itself.
        rows: examples with ``messages``.
        metrics: of ``perplexity`` (over the tokens of the assistant's turns), ``bleu`` and ``rouge`` (of greedy
            answers to each example's last prompt). The first one gives the result's ``improvement``.
        max_new_tokens: the longest answer.
        model_id: recorded in the result.
        baseline: whether to measure the base model without the adapter too.
        custom: evaluations of the user's own; with them there may be no ``rows``.
        benchmarks: public benchmarks, likewise.
        store: where results of benchmarks are kept.
        on_progress: called in this thread with what is being done and how much of the whole is done, 0 to 1.

    Raises:
        InputError: base model, adapter or rows are unusable.
        UserError: the base model has no chat template, or it refuses the messages.
        UnsupportedError: a metric can't be measured.
        ClusterError: Ray is not running here, or the task was lost.
    """
    if not (rows or custom or benchmarks) or not metrics:
        what = "metrics" if not metrics else "examples"
        raise InputError(f"There are no {what} to evaluate with.", hint=f"Give at least one of the {what}.")
    if not ray.is_initialized():
        raise ClusterError("Ray is not running in this process.", hint="Call ray.init() first.")
    settings = {
        "base_model": base_model.absolute(),
        "adapter": adapter.absolute() if adapter else None,
        "rows": rows,
        "metrics": tuple(metrics),
        "max_new_tokens": max_new_tokens,
        "model_id": model_id,
        "baseline": baseline,
        "custom": tuple(custom),
        "benchmarks": benchmarks,
        "store": store,
    }
    num_gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    task = ray.remote(num_cpus=1, num_gpus=num_gpus, num_returns="streaming", max_retries=0)(_evaluate_remotely)
    try:
        for reference in task.remote(settings):
            item = ray.get(reference)
            if isinstance(item, LlamaFarmError):
                raise item
            if isinstance(item, EvaluationResult):
                return item
            if on_progress is not None:
                on_progress(*item)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        raise ClusterError(f"The evaluation was lost: {lines[-1] if lines else type(error).__name__}") from error
    raise ClusterError("The evaluation ended without a result.", hint="Run it again.")


def _evaluate_remotely(settings: dict[str, Any]) -> Iterator[tuple[str, float] | EvaluationResult | LlamaFarmError]:
    """Stream progress, and at last the result, or the error as a value: raised, Ray would wrap it."""
    # On the worker only: the caller's process needs no torch.
    from llamafarm_ray.evaluation.run import EvaluationJob, run_evaluation  # noqa: PLC0415

    items: SimpleQueue[tuple[str, float] | EvaluationResult | LlamaFarmError] = SimpleQueue()

    def work() -> None:
        try:
            items.put(run_evaluation(EvaluationJob(**settings), lambda what, done: items.put((what, done))))
        except LlamaFarmError as error:
            items.put(error)
        except Exception as error:  # noqa: BLE001 - the process boundary: the caller can't unpickle every error
            items.put(InfrastructureError(f"The evaluation failed: {first_line(error)}"))

    Thread(target=work, name="llamafarm-evaluate", daemon=True).start()
    while True:
        item = items.get()
        yield item
        if not isinstance(item, tuple):
            return
