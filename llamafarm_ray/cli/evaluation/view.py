"""Results of an evaluation as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llamafarm_ray.cli.terminal import facts, table

if TYPE_CHECKING:
    from llamafarm_ray.evaluation import EvaluationResult
    from llamafarm_ray.evaluation.answered import Answered

__all__ = ["show_evaluation", "show_failing"]

_MAX_SHOWN = 20


def show_failing(answers: Sequence[Answered]) -> None:
    """Print the wrong answers of sets that must pass."""
    rows = [
        (one.benchmark, one.id, one.prompt, " / ".join(one.accepted), one.answer or one.failure)
        for one in answers[:_MAX_SHOWN]
    ]
    if rows:
        more = f", the first {_MAX_SHOWN} of {len(answers)}" if len(answers) > _MAX_SHOWN else ""
        table(f"Wrong answers of sets that must pass{more}", ("set", "id", "question", "right", "answer"), rows)


def show_evaluation(result: EvaluationResult) -> None:
    """Scores beside the baseline's, and what their differences are worth."""
    from llamafarm_ray.evaluation.comparison import difference_text

    rows = [
        (
            f"{benchmark} {metric}",
            _number((scores.baseline or {}).get(metric)),
            _number(value),
            _interval(scores.intervals or {}, metric),
            difference_text(scores.comparison or {}, metric),
        )
        for benchmark, scores in result.scores()
        for metric, value in scores.metrics.items()
    ]
    counts = {scores.num_examples for scores in result.benchmarks.values() if scores.num_examples}
    examples = f" on {' and '.join(map(str, sorted(counts)))} examples" if counts else ""
    table(
        f"{result.model_id}{examples}",
        ("measure", "base", "model", "95 % interval", "difference"),
        rows,
        drop_empty=True,
    )
    _show_contamination(result.contamination or {})
    facts(
        "Failures",
        [
            (f"{name}: {reason}", count)
            for name, one in result.scores()
            for reason, count in (one.failures or {}).items()
        ],
    )
    stored = {scores.dataset for _, scores in result.scores() if scores.dataset}
    facts("Registered sets", [(one.partition("@")[0], one.partition("@")[2]) for one in sorted(stored)])
    facts("Not measured", [(name, scores.reason) for name, scores in result.scores() if scores.reason])
    facts("RAG integration", [(name, value) for name, value in (result.rag_integration or {}).items()])


def _show_contamination(found: dict[str, Any]) -> None:
    """Print the questions that the training data hold, set by set."""
    sets = {name: one for name, one in found.items() if isinstance(one, dict) and one.get("num_overlapping")}
    for name, one in sets.items():
        left_out = "left out" if one["left_out"] else "asked all the same"
        counts = f"{one['num_overlapping']} of {one['num_questions']} questions of {name}"
        rows = [(each["question"], each["example"], each["training_data"]) for each in one["overlaps"]]
        table(f"{counts} are in the training data ({left_out})", ("question", "trained on", "dataset"), rows)
    reasons = found.get("not_compared", [])
    facts("Questions not compared with training data", [("because", reason) for reason in reasons])


def _interval(intervals: dict[str, tuple[float, float]], metric: str) -> str:
    if metric not in intervals:
        return ""
    low, high = intervals[metric]
    return f"{_number(low)} to {_number(high)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}" if abs(value) < _LARGE else f"{value:,.0f}"


_LARGE = 1000
"""From here on a score is shown without decimals."""
