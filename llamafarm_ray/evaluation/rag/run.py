"""Ask a model the questions of an exam in this process, and its base without the adapter: no Ray here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.generation import generate, load_for_inference
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.progress import Report, part_of
from llamafarm_ray.evaluation.rag.grading import Answer, ExamAnswers, ModelAnswers
from llamafarm_ray.models.chat import render_chat
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.types import Digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ExamJob", "answer_exam", "answer_settings"]


@dataclass(frozen=True, slots=True)
class ExamJob:
    """Prompts for a model.

    Args:
        base_model: folder of the base model.
        adapter: folder of an adapter on it; None asks the base model itself.
        prompts: prompts of each mode; None where a question has none.
        max_new_tokens: the longest answer.
        baseline: True to ask the base model without the adapter too.
        kept: kept answers of the model and of its base without the adapter; None keeps none.
    """

    base_model: Path
    adapter: Path | None
    prompts: Mapping[str, Sequence[str | None]]
    max_new_tokens: int
    baseline: bool
    kept: tuple[KeptBatches, KeptBatches] | None = None


def answer_settings(settings: Mapping[str, Any], report: Report) -> ExamAnswers:
    """Ask what the fields of an `ExamJob` say."""
    return answer_exam(ExamJob(**settings), report)


def answer_exam(job: ExamJob, report: Report) -> ExamAnswers:
    """Return the answers of the model, and those of its base where they are asked for, by mode.

    A prompt that is too long for the model is not asked: its answer is None.

    Raises:
        UserError: base model or adapter are unusable, or no prompt fits the model.
    """
    quiet_libraries()
    check_base_model(job.base_model)
    tokenizer = load_tokenizer(job.base_model)
    report("loading the model", 0.0)
    model = load_for_inference(job.base_model, job.adapter)
    template = Digest.of(str(tokenizer.chat_template).encode())
    max_length = getattr(model.config, "max_position_embeddings", None)
    ids = {mode: [_ids(tokenizer, prompt) for prompt in prompts] for mode, prompts in job.prompts.items()}
    asked = [
        (mode, at, row)
        for mode, rows in ids.items()
        for at, row in enumerate(rows)
        if row is not None and (max_length is None or len(row) + job.max_new_tokens <= max_length)
    ]
    if not asked:
        raise InputError(
            f"No question fits into the model's {max_length} tokens with an answer of {job.max_new_tokens}.",
            hint="Set evaluation.max_new_tokens lower, or retrieve fewer or shorter passages.",
        )

    def ask(progress: Report, kept: KeptBatches | None) -> ModelAnswers:
        answers: ModelAnswers = {mode: [None] * len(rows) for mode, rows in ids.items()}
        found = generate(model, tokenizer, [row for _, _, row in asked], job.max_new_tokens, progress, kept=kept)
        for (mode, at, _), one in zip(asked, found, strict=True):
            answers[mode][at] = Answer(one.text, one.num_tokens, one.seconds, one.confidence)
        return answers

    ours, theirs = job.kept or (None, None)
    if not job.baseline or job.adapter is None:
        return ExamAnswers(ask(report, ours), None, template)
    with model.disable_adapter():
        baseline = ask(part_of(report, "baseline: ", 0.0, 0.5), theirs)
    return ExamAnswers(ask(part_of(report, "", 0.5, 0.5), ours), baseline, template)


def _ids(tokenizer: PreTrainedTokenizerBase, prompt: str | None) -> list[int] | None:
    if prompt is None:
        return None
    text = render_chat(tokenizer, [{"role": "user", "content": prompt}], for_answer=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
