"""Measure a model on held-out examples, on the caller's Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.remote import run_all_on_ray
from llamafarm_ray.evaluation.result import EvaluationResult
from llamafarm_ray.evaluation.run import EvaluationJob, score_answers

__all__ = ["evaluate"]


def evaluate(
    *,
    model: MeasuredModel,
    rows: list[dict[str, Any]],
    metrics: Sequence[str],
    max_new_tokens: int,
    model_id: str,
    baseline: bool = True,
    rival: MeasuredModel | None = None,
    workers: int = 1,
    on_progress: Callable[[str, float], None] | None = None,
) -> EvaluationResult:
    """Measure a model on examples, beside its base model.

    Args:
        model: the model; its folders must be readable where Ray runs the task.
        rows: examples with ``messages``.
        metrics: of ``HELD_OUT_METRICS``: perplexities are over the tokens of the assistant's turns, others of greedy
            answers to each example's last prompt. The first one gives the result's ``improvement``.
        baseline: True to measure the base model without the adapter too.
        rival: the model to compare with instead.
        workers: Ray tasks that share the examples; scores don't depend on their number.
        on_progress: called in this thread with the current activity and the fraction of the whole that is done, 0 to 1.

    Raises:
        InputError: base model, adapter or rows are unusable.
        UserError: the base model has no chat template, or it refuses the messages.
        UnsupportedError: a metric can't be measured.
        ClusterError: Ray is not running here, or the task was lost.
    """
    if not rows or not metrics:
        what = "examples" if not rows else "metrics"
        raise InputError(f"There are no {what} to evaluate with.", hint=f"Give at least one of the {what}.")
    job = EvaluationJob(
        model=model,
        rows=rows,
        metrics=tuple(metrics),
        max_new_tokens=max_new_tokens,
        model_id=model_id,
        baseline=baseline,
        rival=rival,
    )
    settings = {name: getattr(job, name) for name in EvaluationJob.__dataclass_fields__}
    parts = [{**settings, "part": number, "num_parts": workers} for number in range(workers)]
    answers = run_all_on_ray("llamafarm_ray.evaluation.answering:answer_settings", parts, on_progress)
    return score_answers(job, answers)
