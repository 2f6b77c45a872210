"""Custom evaluations and benchmarks of a model and its baseline, in this process: no Ray here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan, run_benchmarks
from llamafarm_ray.evaluation.benchmarks.store import ResultStore
from llamafarm_ray.evaluation.custom.questions import Question
from llamafarm_ray.evaluation.custom.sets import CustomSet, measure_set
from llamafarm_ray.evaluation.generation import Report, generate, load_for_inference, part_of
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult, now
from llamafarm_ray.models.chat import render_chat
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries

__all__ = ["MeasuringJob", "measure", "measure_settings"]


@dataclass(frozen=True, slots=True)
class MeasuringJob:
    """Sets and benchmarks to ask.

    Args:
        model: the model.
        rival: the model to compare with; None: the base without the adapter.
        model_id: recorded in the result.
        custom: evaluations of the user's own.
        benchmarks: public benchmarks.
        max_new_tokens: the longest answer, where a set does not say.
        store: where results of benchmarks are kept.
    """

    model: MeasuredModel
    rival: MeasuredModel | None
    model_id: str
    custom: tuple[CustomSet, ...]
    benchmarks: BenchmarkPlan | None
    max_new_tokens: int
    store: ResultStore | None


def measure_settings(settings: Mapping[str, Any], report: Report) -> EvaluationResult:
    """Measure what the fields of a `MeasuringJob` say."""
    return measure(MeasuringJob(**settings), report)


def measure(job: MeasuringJob, report: Report) -> EvaluationResult:
    """Ask everything of the model, and of its baseline: the rival, else the base without the adapter.

    Raises:
        UserError: a model, a set or a benchmark is unusable.
    """
    quiet_libraries()
    has_two = job.rival is not None
    answers, scores = _ask(job, job.model, job.model.weights, part_of(report, "", 0.0, 0.5 if has_two else 1.0))
    before: tuple[dict[str, list[str]], dict[str, BenchmarkScores]] | None = None
    if job.rival is not None:
        before = _ask(job, job.rival, job.rival.weights, part_of(report, "baseline: ", 0.5, 0.5))
    elif job.model.adapter is not None:
        before = _ask(job, job.model, job.model.base_weights, report, is_base=True)
    benchmarks: dict[str, BenchmarkScores] = {}
    answered: list[Answered] = []
    for asked in job.custom:
        theirs = before[0][asked.name] if before is not None else None
        benchmarks[asked.name], one_by_one = measure_set(asked, answers[asked.name], theirs)
        answered += one_by_one
    for name, one in scores.items():
        benchmarks[name] = one.beside(before[1][name]) if before is not None else one
    return EvaluationResult(job.model_id, now(), benchmarks, answered=tuple(answered))


def _ask(
    job: MeasuringJob, asked: MeasuredModel, weights: str, report: Report, *, is_base: bool = False
) -> tuple[dict[str, list[str]], dict[str, BenchmarkScores]]:
    """Return the answers to each set, and the scores of each benchmark."""
    check_base_model(asked.base)
    tokenizer = load_tokenizer(asked.base)
    report("loading the model", 0.0)
    model = load_for_inference(asked.base, asked.adapter)
    with model.disable_adapter() if is_base else nullcontext():
        answers = {
            one.name: _answer(model, tokenizer, one.questions, one.max_new_tokens or job.max_new_tokens, report)
            for one in job.custom
        }
        scores: dict[str, BenchmarkScores] = {}
        if job.benchmarks is not None:
            report(", ".join(job.benchmarks.names), 0.0)
            scores = run_benchmarks(job.benchmarks, model, tokenizer, weights=weights, store=job.store)
    return answers, scores


def _answer(
    model: Any, tokenizer: Any, questions: Sequence[Question], max_new_tokens: int, report: Report
) -> list[str]:
    """Return the most probable answer to each question."""
    max_length = getattr(model.config, "max_position_embeddings", None)
    prompts = []
    for question in questions:
        prompt = render_chat(tokenizer, list(question.messages), for_answer=True)
        ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        if max_length is not None and len(ids) + max_new_tokens > max_length:
            raise InputError(
                f"The question {question.id!r} has {len(ids)} tokens; with an answer the model reads {max_length}.",
                hint="Shorten it, or lower max_new_tokens.",
            )
        prompts.append(ids)
    return [one.text for one in generate(model, tokenizer, prompts, max_new_tokens, report)]
