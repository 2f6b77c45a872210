"""Ask a model the questions of an exam in this process, and its base without the adapter: no Ray here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.engines.opening import opened
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.progress import Report, part_of
from llamafarm_ray.evaluation.rag.grading import Answer, ExamAnswers, ModelAnswers
from llamafarm_ray.models.chat import render_chat
from llamafarm_ray.types import Digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ExamJob", "answer_exam", "answer_settings"]


@dataclass(frozen=True, slots=True)
class ExamJob:
    """Prompts for a model.

    Args:
        prompts: prompts of each mode; None where a question has none.
        baseline: True to ask the base model without the adapter too.
    """

    model: MeasuredModel
    prompts: Mapping[str, Sequence[str | None]]
    max_new_tokens: int
    baseline: bool


def answer_settings(settings: Mapping[str, Any], report: Report) -> ExamAnswers:
    """Run an `ExamJob` given as plain fields."""
    return answer_exam(ExamJob(**settings), report)


def answer_exam(job: ExamJob, report: Report) -> ExamAnswers:
    """Return the answers of the model, and those of its base where they are asked for, by mode.

    A prompt that is too long for the model is not asked: its answer is None.

    Raises:
        UserError: base model or adapter are unusable, or no prompt fits the model.
    """
    report("loading the model", 0.0)
    with opened(job.model) as engine:
        template = Digest.of(str(engine.tokenizer.chat_template).encode())
        ids = {mode: [_ids(engine.tokenizer, prompt) for prompt in prompts] for mode, prompts in job.prompts.items()}
        asked = _fitting(ids, engine.max_length, job.max_new_tokens)

        def ask(progress: Report, *, with_adapter: bool) -> ModelAnswers:
            answers: ModelAnswers = {mode: [None] * len(rows) for mode, rows in ids.items()}
            kept = job.model.kept_answers(with_adapter=with_adapter)
            prompts = [row for _, _, row in asked]
            found = engine.generate(prompts, job.max_new_tokens, progress, with_adapter=with_adapter, kept=kept)
            for (mode, at, _), one in zip(asked, found, strict=True):
                answers[mode][at] = Answer(one.text, one.num_tokens, one.seconds, one.confidence)
            return answers

        if not job.baseline or not job.model.has_base:
            return ExamAnswers(ask(report, with_adapter=True), None, template)
        baseline = ask(part_of(report, "baseline: ", 0.0, 0.5), with_adapter=False)
        return ExamAnswers(ask(part_of(report, "", 0.5, 0.5), with_adapter=True), baseline, template)


def _fitting(
    ids: Mapping[str, Sequence[list[int] | None]], max_length: int | None, max_new_tokens: int
) -> list[tuple[str, int, list[int]]]:
    """Return the mode, place and tokens of each prompt that fits the model with an answer.

    Raises:
        InputError: none does.
    """
    asked = [
        (mode, at, row)
        for mode, rows in ids.items()
        for at, row in enumerate(rows)
        if row is not None and (max_length is None or len(row) + max_new_tokens <= max_length)
    ]
    if not asked:
        raise InputError(
            f"No question fits into the model's {max_length} tokens with an answer of {max_new_tokens}.",
            hint="Set evaluation.max_new_tokens lower, or retrieve fewer or shorter passages.",
        )
    return asked


def _ids(tokenizer: PreTrainedTokenizerBase, prompt: str | None) -> list[int] | None:
    if prompt is None:
        return None
    text = render_chat(tokenizer, [{"role": "user", "content": prompt}], for_answer=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
