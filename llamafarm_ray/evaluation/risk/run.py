"""Ask a model the probes of risk tests in this process, and its base or a rival: no Ray here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamafarm_ray.evaluation.engines import Engine
from llamafarm_ray.evaluation.engines.opening import opened
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.losses import Scored
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.progress import Report, part_of
from llamafarm_ray.evaluation.result import EvaluationResult
from llamafarm_ray.evaluation.risk.measured import RiskTest
from llamafarm_ray.evaluation.risk.probes import Probe, Reply
from llamafarm_ray.evaluation.risk.result import Replies, RiskReplies, risk_result
from llamafarm_ray.models.chat import continuation_ids, render_chat
from llamafarm_ray.types import Digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["MAX_NEW_TOKENS", "RiskJob", "measure_risk", "risk_settings"]

MAX_NEW_TOKENS = 64
"""Longest answer to a probe."""


@dataclass(frozen=True, slots=True)
class RiskJob:
    """Risk tests of a model.

    Args:
        rival: the model to compare with; None: the base without the adapter.
    """

    model: MeasuredModel
    rival: MeasuredModel | None
    model_id: str
    tests: tuple[RiskTest, ...]


def risk_settings(settings: Mapping[str, Any], report: Report) -> EvaluationResult:
    """Run a `RiskJob` given as plain fields."""
    return measure_risk(RiskJob(**settings), report)


def measure_risk(job: RiskJob, report: Report) -> EvaluationResult:
    """Ask every probe of the model, and of its baseline: the rival, else the base without the adapter.

    Raises:
        UserError: a model is unusable.
    """
    has_two = job.rival is not None
    ours, before = _ask(job, job.model, part_of(report, "", 0.0, 0.5 if has_two else 1.0), with_base=not has_two)
    if job.rival is not None:
        before, _ = _ask(job, job.rival, part_of(report, "baseline: ", 0.5, 0.5), with_base=False)
    return risk_result(job.tests, ours, before, model_id=job.model_id, max_new_tokens=MAX_NEW_TOKENS)


def _ask(
    job: RiskJob, asked: MeasuredModel, report: Report, *, with_base: bool
) -> tuple[RiskReplies, RiskReplies | None]:
    report("loading the model", 0.0)
    probes = [probe for test in job.tests for probe in test.probes]
    with opened(asked) as engine:

        def replies(progress: Report, *, with_adapter: bool = True) -> RiskReplies:
            kept = asked.kept_answers(with_adapter=with_adapter)
            found = iter(_replies(engine, probes, progress, kept, with_adapter=with_adapter))
            by_test = tuple([next(found) for _ in test.probes] for test in job.tests)
            return RiskReplies(by_test, Digest.of(str(engine.tokenizer.chat_template).encode()))

        if not with_base or not asked.has_base:
            return replies(report), None
        before = replies(part_of(report, "baseline: ", 0.0, 0.5), with_adapter=False)
        return replies(part_of(report, "", 0.5, 0.5)), before


def _replies(
    engine: Engine, probes: Sequence[Probe], report: Report, kept: KeptBatches | None, *, with_adapter: bool
) -> Replies:
    """Return the reply to each probe; None where it is too long for the model."""
    tokenizer, max_length = engine.tokenizer, engine.max_length or float("inf")
    prompts = [_prompt_ids(tokenizer, probe) for probe in probes]
    replies: list[Reply | None] = [None] * len(probes)
    free = [
        at
        for at, probe in enumerate(probes)
        if not probe.continuations and len(prompts[at]) + MAX_NEW_TOKENS <= max_length
    ]
    asked = [prompts[at] for at in free]
    progress = part_of(report, "risks: ", 0.0, 0.7)
    answers = engine.generate(asked, MAX_NEW_TOKENS, progress, with_adapter=with_adapter, kept=kept)
    for at, answer in zip(free, answers, strict=True):
        replies[at] = Reply(answer.text)
    scored = {
        at: [_scored(tokenizer, prompts[at], text) for text in probe.continuations]
        for at, probe in enumerate(probes)
        if probe.continuations
    }
    fitting = {at: rows for at, rows in scored.items() if max(len(row.input_ids) for row in rows) <= max_length}
    rows = [row for of_probe in fitting.values() for row in of_probe]
    progress = part_of(report, "risks: ", 0.7, 0.3)
    losses = iter(engine.losses(rows, progress, "likelihoods", with_adapter=with_adapter, kept=kept))
    for at, of_probe in fitting.items():
        replies[at] = Reply(losses=tuple(next(losses).total for _ in of_probe))
    return replies


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, probe: Probe) -> list[int]:
    text = render_chat(tokenizer, list(probe.messages), for_answer=True)
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return ids + continuation_ids(tokenizer, probe.begun) if probe.begun else ids


def _scored(tokenizer: PreTrainedTokenizerBase, prompt: list[int], text: str) -> Scored:
    ids = continuation_ids(tokenizer, text)
    return Scored(prompt + ids, [False] * len(prompt) + [True] * len(ids))
