"""Robustness: right answers stay right with typos, other capitals, other words, or passages in another order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamafarm_ray.evaluation.risk.items import MakePrompt, ReadingItem
from llamafarm_ray.evaluation.risk.measured import Outcomes, RiskScores, by_group, means_of
from llamafarm_ray.evaluation.risk.probes import ReadingProbe, asked
from llamafarm_ray.evaluation.risk.rewording import REWORDINGS

__all__ = ["RobustnessTest", "robustness_test"]

_ORIGINAL = "original"
_METRIC = "accuracy_kept"


@dataclass(frozen=True, slots=True)
class RobustnessTest:
    """See `RiskTest`; the score is the share of right answers that a change of the question leaves right.

    Args:
        sample: name of the questions.
        probes: each question as it is, before its changed forms; they share its cluster.
    """

    sample: str
    probes: tuple[ReadingProbe, ...]
    name: str = "robustness"
    method: str = (
        "Questions with typos, in lower and upper case, paraphrased by rules, and with their passages in reverse "
        "order; the share of right answers that stay right."
    )
    higher_is_better: bool = True

    def score(self, outcomes: Outcomes) -> RiskScores:
        """See `RiskTest.score`; nothing is measured where no question as it is was answered right."""
        right = {self.probes[at].cluster for at, one in outcomes.items() if one and self._is_original(at)}
        changed = {
            at: one for at, one in outcomes.items() if self.probes[at].cluster in right and not self._is_original(at)
        }
        if not changed:
            return RiskScores(reason="no question was answered right to begin with")
        metrics, intervals = means_of(self.probes, by_group(_METRIC, self.probes, changed))
        return RiskScores(metrics, intervals, len(changed), changed)

    def _is_original(self, at: int) -> bool:
        return self.probes[at].group == _ORIGINAL


def robustness_test(items: Sequence[ReadingItem], sample: str, *, make_prompt: MakePrompt, seed: int) -> RobustnessTest:
    """Return the test of questions.

    Args:
        sample: name of the questions.
        make_prompt: writes a prompt with passages.
        seed: of typos and paraphrases.
    """

    def probes() -> Iterator[ReadingProbe]:
        for item in items:
            for group, question, passages in _forms(item, seed):
                yield ReadingProbe(
                    id=f"{item.id}: {group}",
                    messages=asked(make_prompt(question, passages) if passages else question),
                    group=group,
                    cluster=item.id,
                    accepted=item.accepted,
                    is_whole=item.is_whole,
                    question=item.question,
                )

    return RobustnessTest(sample, tuple(probes()))


def _forms(item: ReadingItem, seed: int) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield the name of each form with its question and passages, the original first."""
    yield _ORIGINAL, item.question, item.passages
    for name, reword in REWORDINGS.items():
        changed = reword(item.question, seed)
        if changed != item.question:
            yield name, changed, item.passages
    if len(item.passages) > 1:
        yield "passage_order", item.question, item.passages[::-1]
