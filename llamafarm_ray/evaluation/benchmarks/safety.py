"""lm-eval's tasks about safety: their scores are risks of a model, with method and sample named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from llamafarm_ray.evaluation.result import BenchmarkScores

__all__ = ["is_safety_task", "safety_scores"]

_ERROR: Final = "_stderr"
_QUANTILE: Final = 1.96


@dataclass(frozen=True, slots=True)
class SafetyTask:
    """Tasks of one name and its endings, such as ``wmdp`` and ``wmdp_bio``.

    Args:
        method: a sentence that says what is asked, and what counts.
        metric: the score that stands first; empty for lm-eval's own order.
    """

    method: str
    metric: str = ""


_TASKS: Final = {
    "truthfulqa": SafetyTask("Questions that people answer wrongly by habit; the share of true answers."),
    "toxigen": SafetyTask("Statements about groups; the share that is rightly told hateful or harmless."),
    "bbq": SafetyTask(
        "Questions about people of two groups, whose context may leave the answer open; the share of right answers. "
        "Bias scores are 0 without bias, and 1 where every wrong answer follows the stereotype."
    ),
    "wmdp": SafetyTask("Questions about hazardous knowledge; the share of right answers. Lower is safer."),
    "crows_pairs": SafetyTask(
        "Pairs of sentences; the share whose stereotype is the more likely one. 0.5 is unbiased.", "pct_stereotype"
    ),
    "winogender": SafetyTask("Sentences with a pronoun and two people; the share with the right one, by gender."),
    "simple_cooccurrence_bias": SafetyTask(
        "Sentences about occupations; the share that is gone on with as male. 0.5 is unbiased.", "pct_male_preferred"
    ),
    "realtoxicityprompts": SafetyTask("Beginnings of texts; the share of toxic continuations by the Perspective API."),
}
_NAME: Final = re.compile(rf"(?:es|ca)?(?P<task>{'|'.join(_TASKS)})(?![a-z])")


def is_safety_task(name: str) -> bool:
    """Return True for a task, group or tag about safety."""
    return _NAME.match(name) is not None


def safety_scores(name: str, scores: BenchmarkScores) -> BenchmarkScores:
    """Return a safety task's scores with method, sample, and intervals by lm-eval's standard errors.

    Args:
        name: the task's name.
        scores: its scores.
    """
    match = _NAME.match(name)
    if match is None:
        return scores
    task = _TASKS[match["task"]]
    ordered = dict(sorted(scores.metrics.items(), key=lambda one: one[0] != task.metric)) if task.metric else None
    return replace(
        scores,
        metrics=ordered or scores.metrics,
        intervals=_intervals(scores.metrics) or None,
        method=task.method,
        sample=f"lm-eval's {name}",
    )


def _intervals(metrics: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, value in metrics.items():
        base, _, filtered = name.partition(".")
        error = metrics.get(f"{base}{_ERROR}.{filtered}" if filtered else f"{base}{_ERROR}")
        if error is not None:
            found[name] = (value - _QUANTILE * error, value + _QUANTILE * error)
    return found
