"""The result of an exam: scores of each mode beside the baseline's, and how sure the differences are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from llamafarm_ray.evaluation.comparison.pairing import paired_scores
from llamafarm_ray.evaluation.rag.exam import MODES, RETRIEVED, AskedQuestion
from llamafarm_ray.evaluation.rag.grading import (
    Answers,
    answer_metrics,
    answers_one_by_one,
    grade_rows,
    mode_samples,
    mode_scores,
    rag_integration,
)
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult, improvement, now

__all__ = ["exam_result"]

_UNANSWERED = "the retriever answered no question"
_COMPARED = ("accuracy", "f1", "faithfulness")


def exam_result(
    exam: Sequence[AskedQuestion],
    answers: Answers,
    baseline: Answers | None,
    *,
    model_id: str,
    digests: Mapping[str, Mapping[str, str]],
) -> EvaluationResult:
    """Return scores by mode, with a row for each question.

    Differences from the baseline are corrected for the number of metrics of all modes together.

    Args:
        baseline: answers of the model it is compared with; None without one.
        digests: of the inputs that the scores depend on, by mode.
    """
    benchmarks = {}
    compared = {name: answer_metrics(exam)[name] for name in _COMPARED}
    documents = [asked.document for asked in exam]
    for mode in MODES:
        asked = sum(mode in one.passages for one in exam) if mode in answers else 0
        failures = dict(Counter(one.failure for one in exam if one.failure)) if mode == RETRIEVED else {}
        if not asked:
            if failures:
                benchmarks[mode] = BenchmarkScores({}, num_examples=0, failures=failures, reason=_UNANSWERED)
            continue
        samples = dict(mode_samples(exam, answers, mode))
        scores = mode_scores(exam, answers, mode)
        others = mode_scores(exam, baseline, mode) if baseline is not None else None
        benchmarks[mode] = BenchmarkScores(
            metrics=scores,
            improvement=improvement("accuracy", scores["accuracy"], others["accuracy"])
            if others and "accuracy" in scores and "accuracy" in others
            else None,
            baseline=others,
            num_examples=len(samples),
            num_skipped=asked - len(samples),
            digests=dict(digests.get(mode, {})) or None,
            failures=failures or None,
        )
        if baseline is not None:
            found = paired_scores(samples, dict(mode_samples(exam, baseline, mode)), documents, compared)
            benchmarks[mode] = benchmarks[mode].compared(found)
    result = EvaluationResult(
        model_id,
        now(),
        benchmarks,
        rag_integration=rag_integration(exam, answers),
        questions=grade_rows(exam, answers, baseline),
        answered=answers_one_by_one(exam, answers, baseline),
    )
    return result.corrected()
