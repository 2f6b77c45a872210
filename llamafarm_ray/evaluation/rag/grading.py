"""Grades of an exam: scores of each mode, and a row for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.metrics import METRICS, Sample, percentile
from llamafarm_ray.evaluation.rag.exam import MODES, RETRIEVED, AskedQuestion

__all__ = [
    "Answer",
    "Answers",
    "ExamAnswers",
    "ModelAnswers",
    "answer_metrics",
    "answers_one_by_one",
    "grade_rows",
    "mode_samples",
    "mode_scores",
    "rag_integration",
]

_RETRIEVAL = {"hit_rate": "hit_rate", "mrr": "mrr", "ndcg": "ndcg"}
_ANSWERS = {
    "f1": "f1",
    "exact_match": "exact_match",
    "faithfulness": "faithfulness",
    "context_use": "context_use",
    "refusal_rate": "refusal_rate",
    "toxicity": "toxicity",
    "calibration_error": "calibration_error",
}
"""Names in results, by the metric that they are."""
_SLICES = ("language", "topic")
"""Keys of a question's row that group answers, beside its document."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a model.

    Args:
        seconds: time from the question to the answer's end, together with others in its batch.
        confidence: geometric mean of its tokens' probabilities, 0 to 1; None if it is not known.
    """

    text: str
    num_tokens: int
    seconds: float
    confidence: float | None = None


Answers = Mapping[str, Sequence[Answer | None]]
"""Answers by mode, in the order of the questions; None where a question was not asked: it has no passages for the mode,
or its prompt is too long for the model."""


ModelAnswers = dict[str, list[Answer | None]]


@dataclass(frozen=True, slots=True)
class ExamAnswers:
    """Answers by mode.

    Args:
        baseline: answers of its base without the adapter; None if they were not asked for.
        template: digest of the chat template.
    """

    model: ModelAnswers
    baseline: ModelAnswers | None
    template: str


def answer_metrics(exam: Sequence[AskedQuestion]) -> dict[str, str]:
    """Return the names of the metrics of answers, with the metrics that they are.

    ``accuracy`` is the share of right answers: those that hold an accepted one, or the content of a whole sentence.
    """
    return {"accuracy": "agreement" if any(asked.question.is_whole for asked in exam) else "contains", **_ANSWERS}


def mode_samples(exam: Sequence[AskedQuestion], answers: Answers, mode: str) -> list[tuple[int, Sample]]:
    """Return the answers in a mode, with the places of its questions."""
    found = []
    for at, (asked, answer) in enumerate(zip(exam, answers[mode], strict=True)):
        if answer is None:
            continue
        sample = Sample(
            answer=answer.text,
            accepted=asked.question.answers,
            question=asked.question.question,
            context=tuple(passage.text for passage in asked.passages.get(mode, ())),
            relevant=asked.relevant if mode == RETRIEVED else None,
            num_relevant=asked.num_relevant if mode == RETRIEVED else None,
            num_tokens=answer.num_tokens,
            confidence=answer.confidence,
            seconds=answer.seconds + (asked.retrieval_s if mode == RETRIEVED else 0.0),
        )
        found.append((at, sample))
    return found


def mode_scores(exam: Sequence[AskedQuestion], answers: Answers, mode: str) -> dict[str, float]:
    """Return the scores of a mode by name, without those that could not be measured."""
    samples = [sample for _, sample in mode_samples(exam, answers, mode)]
    measured = {
        name: METRICS[metric].measure(samples).value for name, metric in {**answer_metrics(exam), **_RETRIEVAL}.items()
    }
    return {name: value for name, value in measured.items() if value is not None}


def grade_rows(exam: Sequence[AskedQuestion], answers: Answers, baseline: Answers | None) -> list[dict[str, object]]:
    """Return a row for each question: prompt, passages, answer and grade in each mode, beside the baseline's."""
    rows: list[dict[str, Any]] = [
        {
            "question": asked.question.question,
            "answers": list(asked.question.answers),
            **({"document": asked.document} if asked.document else {}),
            **asked.question.more,
        }
        for asked in exam
    ]
    for mode in MODES:
        if mode not in answers:
            continue
        for at, asked in enumerate(exam):
            if mode not in asked.passages:
                continue
            held = [{"document": one.document, "text": one.text} for one in asked.passages[mode]]
            rows[at][mode] = {"passages": held} if held else {}
            if mode == RETRIEVED and asked.relevant is not None:
                rows[at][mode]["relevant"] = list(asked.relevant)
        for whose, given in (("model", answers), ("baseline", baseline)):
            for at, sample in mode_samples(exam, given, mode) if given is not None else ():
                scores = {name: METRICS[metric].of_sample(sample) for name, metric in answer_metrics(exam).items()}
                rows[at][mode][whose] = {
                    "answer": sample.answer,
                    **{name: value for name, value in scores.items() if value is not None},
                }
    return rows


def answers_one_by_one(
    exam: Sequence[AskedQuestion], answers: Answers, baseline: Answers | None
) -> tuple[Answered, ...]:
    """Return each answer of each mode with its score, beside the baseline's."""
    metric = METRICS[answer_metrics(exam)["accuracy"]]
    found = []
    for mode in (mode for mode in MODES if mode in answers):
        before = dict(mode_samples(exam, baseline, mode)) if baseline is not None else {}
        for at, sample in mode_samples(exam, answers, mode):
            asked, other = exam[at], before.get(at)
            slices = {"document": asked.document} if asked.document else {}
            slices |= {name: str(asked.question.more[name]) for name in _SLICES if asked.question.more.get(name)}
            found.append(
                Answered(
                    benchmark=mode,
                    id=str(at + 1),
                    prompt=asked.question.question,
                    accepted=asked.question.answers,
                    answer=sample.answer,
                    score=metric.of_sample(sample),
                    baseline_answer=other.answer if other is not None else None,
                    baseline_score=metric.of_sample(other) if other is not None else None,
                    slices=slices,
                )
            )
    return tuple(found)


def rag_integration(exam: Sequence[AskedQuestion], answers: Answers) -> dict[str, object] | None:
    """Return the block of that name: relevance of the passages, quality of the answers, and their time.

    ``retrieval_relevance`` is the hit rate of the retrieved passages, ``response_quality`` the share of right answers
    with them, ``latency_p95`` the time from the question to the end of its answer.
    """
    if RETRIEVED not in answers:
        return None
    scores = mode_scores(exam, answers, RETRIEVED)
    took = percentile([sample.seconds or 0.0 for _, sample in mode_samples(exam, answers, RETRIEVED)], 95)
    block = {
        "retrieval_relevance": scores.get("hit_rate"),
        "response_quality": scores.get("accuracy"),
        "rag_accuracy": scores.get("accuracy"),
        **{name: scores.get(name) for name in ("mrr", "ndcg", "faithfulness", "context_use")},
        "latency_p95": None if took is None else f"{took * 1000:.0f}ms",
    }
    return {name: value for name, value in block.items() if value is not None}
