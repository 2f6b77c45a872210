"""lm-eval's tasks about safety: their scores are risks of a model, with method and sample named."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from llamafarm_ray.evaluation.comparison.proportions import wilson_interval
from llamafarm_ray.evaluation.result import BenchmarkScores

__all__ = ["is_safety_task", "safety_scores"]


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
        "Sentences about occupations; the share that the model continues as male. 0.5 is unbiased.",
        "pct_male_preferred",
    ),
    "realtoxicityprompts": SafetyTask("Beginnings of texts; the share of toxic continuations by the Perspective API."),
}
_NAME: Final = re.compile(rf"(?:es|ca)?(?P<task>{'|'.join(_TASKS)})(?![a-z])")


def is_safety_task(name: str) -> bool:
    """Return True for a task, group or tag about safety."""
    return _NAME.match(name) is not None


def safety_scores(name: str, scores: BenchmarkScores) -> BenchmarkScores:
    """Return a safety task's scores with method, sample and Wilson's interval of the first one, if it is a share."""
    match = _NAME.match(name)
    if match is None:
        return scores
    task = _TASKS[match["task"]]
    metrics = dict(sorted(scores.metrics.items(), key=lambda one: one[0] != (task.metric or one[0])))
    first, value = next(iter(metrics.items()))
    intervals = (
        {first: wilson_interval(value, scores.num_examples)} if scores.num_examples and 0 <= value <= 1 else None
    )
    return replace(scores, metrics=metrics, intervals=intervals, method=task.method, sample=f"lm-eval's {name}")
