"""Excerpts of an exam whose sentences the base model ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from llamafarm_ray.capacity import total
from llamafarm_ray.config import Evaluation
from llamafarm_ray.data.augmentation.with_passages import ask_with_passages
from llamafarm_ray.data.generation import why_it_cannot_write
from llamafarm_ray.data.generation.base_model.ranking import LikelihoodJob
from llamafarm_ray.data.search.excerpts import NUM_LIKELIEST
from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.rag.exam import RETRIEVED, AskedQuestion
from llamafarm_ray.evaluation.remote import run_on_ray
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.evaluation.questions import Exam
from llamafarm_ray.workflows.inspection.base import GENERATION_CACHE

__all__ = ["ranked_by_base_model"]

_FUNCTION = "llamafarm_ray.data.generation.base_model.likelihood:likelihoods_of"


def ranked_by_base_model(
    exam: Exam,
    settings: Evaluation,
    base: Path,
    home: Location | None,
    on_progress: Callable[[str, float], None] | None = None,
) -> Exam:
    """Return an exam whose excerpts the base model ranks; the same exam where vectors are to rank them.

    Needs a connected Ray.

    Args:
        exam: the exam, with what retrieval found.
        settings: the section ``evaluation``.
        home: keeps the model's results on the lessons; None keeps nothing.
        on_progress: called with a stage and the fraction of it that is done.

    Raises:
        InputError: ``sentence_ranker`` is "base_model", and the model's weights are in another format than safetensors.
    """
    asked = [one for one in exam.asked if one.passages.get(RETRIEVED)]
    if settings.sentence_ranker == "vectors" or settings.retrieved_sentences is None or not asked:
        return exam
    if not any(base.glob("*.safetensors")):
        if settings.sentence_ranker == "base_model":
            raise InputError(
                f"The base model can't rank sentences: {base} has no weights in safetensors.",
                hint="Set evaluation.sentence_ranker to vectors.",
            )
        return exam
    if settings.sentence_ranker == "auto" and why_it_cannot_write(str(base), has_gpu=total("GPU") >= 1):
        return exam
    num_sentences = NUM_LIKELIEST if settings.retrieved_sentences == "auto" else settings.retrieved_sentences
    prompts = _prompts(asked, num_sentences, base, home, on_progress)
    left = iter(prompts)
    ranked = [
        replace(one, prompts={**one.prompts, RETRIEVED: next(left)}) if one.passages.get(RETRIEVED) else one
        for one in exam.asked
    ]
    # The prompts themselves: the same base model in another folder asks the same.
    digest = Digest.of(json.dumps([exam.settings[RETRIEVED], prompts]).encode())
    return replace(exam, asked=ranked, settings={**exam.settings, RETRIEVED: digest})


def _prompts(
    asked: Sequence[AskedQuestion],
    num_sentences: int,
    base: Path,
    home: Location | None,
    on_progress: Callable[[str, float], None] | None,
) -> list[str]:
    """Return the prompt with passages of each question."""
    questions = [one.question.question for one in asked]
    passages = [[passage.text for passage in one.passages[RETRIEVED]] for one in asked]
    cache = f"{home.uri.rstrip('/')}/{GENERATION_CACHE}" if home is not None else None
    job = LikelihoodJob.of(questions, passages, base.absolute(), cache)
    found = cast(list[list[float]], run_on_ray(_FUNCTION, {"job": job}, on_progress))
    return [
        ask_with_passages(question, texts, num_sentences, likelihoods)
        for question, texts, likelihoods in zip(questions, passages, found, strict=True)
    ]
