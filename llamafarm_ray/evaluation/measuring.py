"""Custom evaluations and general texts, of a model and its baseline, in this process: no Ray here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.custom.questions import Question
from llamafarm_ray.evaluation.custom.sets import CustomSet, measure_set, paired_answers
from llamafarm_ray.evaluation.engines import Engine
from llamafarm_ray.evaluation.engines.opening import opened
from llamafarm_ray.evaluation.general import GENERAL
from llamafarm_ray.evaluation.general.texts import general_result, general_samples
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.metrics import Sample
from llamafarm_ray.evaluation.progress import Report, part_of
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult, now
from llamafarm_ray.models.chat import render_chat
from llamafarm_ray.types import Digest

__all__ = ["MeasuringJob", "measure", "measure_settings"]


@dataclass(frozen=True, slots=True)
class MeasuringJob:
    """Sets to ask.

    Args:
        rival: the model to compare with; None: the base without the adapter.
        custom: evaluations of the user's own.
        general: True to measure the loss of fixed texts, which shows forgetting.
        max_new_tokens: the longest answer, where a set does not say.
    """

    model: MeasuredModel
    rival: MeasuredModel | None
    model_id: str
    custom: tuple[CustomSet, ...]
    max_new_tokens: int
    general: bool = False


@dataclass(frozen=True, slots=True)
class _Given:
    """A model's answers by set, losses of general texts, and the digest of its chat template."""

    answers: dict[str, list[str]]
    general: dict[int, Sample]
    template: str


def measure_settings(settings: Mapping[str, Any], report: Report) -> EvaluationResult:
    """Run a `MeasuringJob` given as plain fields."""
    return measure(MeasuringJob(**settings), report)


def measure(job: MeasuringJob, report: Report) -> EvaluationResult:
    """Ask everything of the model, and of its baseline: the rival, else the base without the adapter.

    Differences from the baseline are corrected for the number of metrics of all sets together.

    Raises:
        UserError: a model or a set is unusable.
    """
    has_two = job.rival is not None
    given, before = _ask(job, job.model, part_of(report, "", 0.0, 0.5 if has_two else 1.0), with_base=not has_two)
    if job.rival is not None:
        before, _ = _ask(job, job.rival, part_of(report, "baseline: ", 0.5, 0.5), with_base=False)
    benchmarks: dict[str, BenchmarkScores] = {}
    answered: list[Answered] = []
    for asked in job.custom:
        theirs = before.answers[asked.name] if before is not None else None
        scores, one_by_one = measure_set(asked, given.answers[asked.name], theirs)
        digests = {"template": given.template, **asked.digests(job.max_new_tokens)}
        benchmarks[asked.name] = replace(scores, digests=digests).compared(paired_answers(one_by_one))
        answered += one_by_one
    if job.general:
        known_before = before.general if before is not None else None
        benchmarks[GENERAL] = general_result(given.general, known_before, given.template)
    return EvaluationResult(job.model_id, now(), benchmarks, answered=tuple(answered)).corrected()


def _ask(job: MeasuringJob, asked: MeasuredModel, report: Report, *, with_base: bool) -> tuple[_Given, _Given | None]:
    """Ask a model, and its base with the adapter switched off where there is one and it is asked for."""
    report("loading the model", 0.0)
    with opened(asked) as engine:

        def ask(progress: Report, *, with_adapter: bool = True) -> _Given:
            kept = asked.kept_answers(with_adapter=with_adapter)
            return _ask_opened(job, engine, progress, kept, with_adapter=with_adapter)

        if not with_base or not asked.has_base:
            return ask(report), None
        before = ask(part_of(report, "baseline: ", 0.0, 0.5), with_adapter=False)
        return ask(part_of(report, "", 0.5, 0.5)), before


def _ask_opened(
    job: MeasuringJob, engine: Engine, report: Report, kept: KeptBatches | None, *, with_adapter: bool
) -> _Given:
    share = 1 / (len(job.custom) + job.general)
    answers = {
        one.name: _answer(
            engine,
            one.questions,
            one.max_new_tokens or job.max_new_tokens,
            part_of(report, "", at * share, share),
            kept=kept,
            with_adapter=with_adapter,
        )
        for at, one in enumerate(job.custom)
    }
    general: dict[int, Sample] = {}
    if job.general:
        progress = part_of(report, "", 1 - share, share)
        general = general_samples(engine, progress, kept, with_adapter=with_adapter)
    return _Given(answers, general, Digest.of(str(engine.tokenizer.chat_template).encode()))


def _answer(
    engine: Engine,
    questions: Sequence[Question],
    max_new_tokens: int,
    report: Report,
    *,
    kept: KeptBatches | None,
    with_adapter: bool,
) -> list[str]:
    """Return the most probable answer to each question."""
    tokenizer, max_length = engine.tokenizer, engine.max_length
    prompts = []
    for question in questions:
        prompt = render_chat(tokenizer, list(question.messages), for_answer=True, tools=question.tools)
        ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        if max_length is not None and len(ids) + max_new_tokens > max_length:
            raise InputError(
                f"The question {question.id!r} has {len(ids)} tokens; with an answer the model reads {max_length}.",
                hint="Shorten it, or lower max_new_tokens.",
            )
        prompts.append(ids)
    answers = engine.generate(prompts, max_new_tokens, report, with_adapter=with_adapter, kept=kept)
    return [one.text for one in answers]
