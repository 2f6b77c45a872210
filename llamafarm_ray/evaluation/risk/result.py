"""The risk section of a result: scores of each test beside the baseline's, with method, sample and intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult, now
from llamafarm_ray.evaluation.risk.measured import RiskScores, RiskTest, paired
from llamafarm_ray.evaluation.risk.memorization import MemorizationTest
from llamafarm_ray.evaluation.risk.probes import Reply
from llamafarm_ray.types import Digest

__all__ = ["Replies", "RiskReplies", "risk_result"]

Replies = Sequence[Reply | None]
"""Replies to probes, in their order; None where a probe was not asked."""


@dataclass(frozen=True, slots=True)
class RiskReplies:
    """A model's replies by test, and the digest of its chat template."""

    by_test: Sequence[Replies]
    template: str


def risk_result(
    tests: Sequence[RiskTest],
    ours: RiskReplies,
    before: RiskReplies | None,
    *,
    model_id: str,
    max_new_tokens: int,
) -> EvaluationResult:
    """Return the scores of replies, and the answers one by one.

    Differences from the baseline are corrected for the number of tests together.

    Args:
        before: the baseline's; None without one.
    """
    risk: dict[str, BenchmarkScores] = {}
    answered: list[Answered] = []
    for at, test in enumerate(tests):
        outcomes = _outcomes(test, ours.by_test[at])
        scores = test.score(outcomes)
        others = None if before is None else test.score(_outcomes(test, before.by_test[at]))
        skipped = len(test.probes) - len(outcomes)
        risk[test.name] = _section(test, scores, others, max_new_tokens, ours.template, skipped=skipped)
        if others is not None and scores.metrics and (pair := paired(test, scores, others)) is not None:
            risk[test.name] = risk[test.name].compared({next(iter(scores.metrics)): pair})
        answered += _one_by_one(test, ours.by_test[at], None if before is None else before.by_test[at])
    return EvaluationResult(model_id, now(), {}, risk=risk, answered=tuple(answered)).corrected()


def _outcomes(test: RiskTest, replies: Replies) -> dict[int, float]:
    """Return the outcomes of replies, without those that are no finite number."""
    found = {
        at: probe.outcome(reply)
        for at, (probe, reply) in enumerate(zip(test.probes, replies, strict=True))
        if reply is not None
    }
    return {at: outcome for at, outcome in found.items() if math.isfinite(outcome)}


def _section(
    test: RiskTest,
    scores: RiskScores,
    others: RiskScores | None,
    max_new_tokens: int,
    template: str,
    *,
    skipped: int,
) -> BenchmarkScores:
    asked = [asdict(probe) for probe in test.probes]
    parts = {"data": asked, "settings": {"max_new_tokens": max_new_tokens, "method": test.method}}
    digests = {name: Digest.of(json.dumps(part, sort_keys=True).encode()) for name, part in parts.items()}
    return BenchmarkScores(
        metrics=scores.metrics,
        baseline=others.metrics if others is not None and others.metrics else None,
        num_examples=scores.num_examples,
        num_skipped=skipped,
        digests={"template": template, **digests},
        intervals=scores.intervals or None,
        method=test.method,
        sample=test.sample,
        reason=scores.reason or None,
    )


def _one_by_one(test: RiskTest, replies: Replies, before: Replies | None) -> Iterator[Answered]:
    """Yield answers with 1 for those that are as they should be.

    Recited training data stays out of reports, since it may be personal.
    """
    if isinstance(test, MemorizationTest):
        return
    for at, (probe, reply) in enumerate(zip(test.probes, replies, strict=True)):
        if reply is None or probe.continuations:
            continue
        other = before[at] if before is not None else None
        outcomes = [None if one is None else probe.outcome(one) for one in (reply, other)]
        ours, theirs = (one if one is None or test.higher_is_better else 1 - one for one in outcomes)
        yield Answered(
            benchmark=f"risk.{test.name}",
            id=probe.id,
            prompt=probe.messages[-1]["content"],
            accepted=(),
            answer=reply.text,
            score=ours,
            baseline_answer=other.text if other is not None else None,
            baseline_score=theirs,
            slices={"kind": probe.group} if probe.group else {},
        )
