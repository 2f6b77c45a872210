"""Custom evaluations: questions, the way to score answers, and their result."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.comparison import PairedScores
from llamafarm_ray.evaluation.custom.questions import Question
from llamafarm_ray.evaluation.custom.scorer import OwnScorer, Scored
from llamafarm_ray.evaluation.metrics.registry import find_metric
from llamafarm_ray.evaluation.result import BenchmarkScores, improvement
from llamafarm_ray.types import Digest

__all__ = ["CustomSet", "failing", "is_right", "measure_set", "paired_answers"]

PASSING = 0.5
"""An answer with at least this score is right; scorers that say yes or no give 1 and 0."""


@dataclass(frozen=True, slots=True)
class CustomSet:
    """A custom evaluation.

    Args:
        name: its name among the results.
        scorer: a metric's name, or a function of the user's.
        must_pass: every answer has to be right.
        max_new_tokens: the longest answer; None for the evaluation's.
    """

    name: str
    questions: tuple[Question, ...]
    scorer: str | OwnScorer = "contains"
    must_pass: bool = False
    max_new_tokens: int | None = None

    def digests(self, max_new_tokens: int) -> dict[str, str]:
        """Return digests of the questions and of the settings: scores of others can't be compared.

        Args:
            max_new_tokens: the longest answer, where the set does not say.
        """
        is_own = isinstance(self.scorer, OwnScorer)
        asked = [
            [one.id, one.messages, one.tools, one.row if is_own else asdict(one.sample(""))] for one in self.questions
        ]
        settings = {
            "scorer": asdict(self.scorer) if isinstance(self.scorer, OwnScorer) else self.scorer,
            "must_pass": self.must_pass,
            "max_new_tokens": self.max_new_tokens or max_new_tokens,
        }
        parts = {"data": asked, "settings": settings}
        return {name: Digest.of(json.dumps(part, sort_keys=True).encode()) for name, part in parts.items()}


def measure_set(
    asked: CustomSet, answers: Sequence[str], before: Sequence[str] | None = None
) -> tuple[BenchmarkScores, list[Answered]]:
    """Score the answers to a set's questions.

    ``score`` is the mean over the answers that could be scored, and ``accuracy`` the share of right ones. Answers that
    the scorer failed on are counted in ``num_skipped``; in a set that must pass they are wrong.

    Args:
        answers: the model's, in the order of the questions.

    Raises:
        InputError: the scorer failed on every answer, or as a whole.
    """
    scores = _score(asked, answers)
    scores_before = _score(asked, before) if before is not None else None
    answered = [
        Answered(
            benchmark=asked.name,
            id=question.id,
            prompt=question.prompt,
            accepted=question.accepted,
            answer=answers[number],
            score=scores[number].value,
            failure=scores[number].failure,
            baseline_answer=before[number] if before is not None else None,
            baseline_score=scores_before[number].value if scores_before is not None else None,
            slices=question.slices,
        )
        for number, question in enumerate(asked.questions)
    ]
    metrics = _metrics(asked, scores)
    metrics_before = _metrics(asked, scores_before) if scores_before is not None else None
    return (
        BenchmarkScores(
            metrics=metrics,
            improvement=(
                improvement("accuracy", metrics["accuracy"], metrics_before["accuracy"]) if metrics_before else None
            ),
            baseline=metrics_before,
            num_examples=len(answered),
            num_skipped=sum(one.value is None for one in scores),
        ),
        answered,
    )


def paired_answers(answered: Sequence[Answered]) -> dict[str, PairedScores]:
    """Return the scores of answers beside the baseline's on the same questions, by metric; {} without a baseline."""
    both = [
        (one.score, one.baseline_score, one.slices.get("document"))
        for one in answered
        if one.score is not None and one.baseline_score is not None
    ]
    if not both:
        return {}
    ours, theirs, documents = zip(*both, strict=True)
    right = PairedScores([float(is_right(one)) for one in ours], [float(is_right(one)) for one in theirs], documents)
    if {*ours, *theirs} <= {0.0, 1.0}:
        return {"accuracy": right}  # the score says the same
    return {"accuracy": right, "score": PairedScores(ours, theirs, documents)}


def failing(asked: CustomSet, answered: Sequence[Answered]) -> list[Answered]:
    """Return the wrong answers of a set that must pass; none of another set."""
    mine = [one for one in answered if one.benchmark == asked.name] if asked.must_pass else []
    return [one for one in mine if not is_right(one.score)]


def is_right(score: float | None) -> bool:
    """Return True for the score of a right answer."""
    return score is not None and score >= PASSING


def _score(asked: CustomSet, answers: Sequence[str]) -> list[Scored]:
    if isinstance(asked.scorer, OwnScorer):
        return asked.scorer.score(asked.questions, answers)
    metric = find_metric(asked.scorer)
    samples = [question.sample(answer) for question, answer in zip(asked.questions, answers, strict=True)]
    return [Scored(value, "" if value is not None else "not measurable") for value in map(metric.of_sample, samples)]


def _metrics(asked: CustomSet, scores: Sequence[Scored]) -> dict[str, float]:
    known = [one.value for one in scores if one.value is not None]
    if not known:
        raise InputError(f"No answer of {asked.name} could be scored: {scores[0].failure}.", hint="Mend its scorer.")
    total = len(scores) if asked.must_pass else len(known)
    return {"accuracy": sum(map(is_right, known)) / total, "score": math.fsum(known) / len(known)}
