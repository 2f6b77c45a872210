"""Answers to held-out examples, and their losses, of a model in this process: no Ray here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llamafarm_ray.evaluation.engines import Engine
from llamafarm_ray.evaluation.engines.opening import opened
from llamafarm_ray.evaluation.generation import Generated
from llamafarm_ray.evaluation.losses import Loss, Scored
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.metrics import Sample, json_valid
from llamafarm_ray.evaluation.progress import Report, part_of
from llamafarm_ray.evaluation.run import EvaluationJob, HeldOutAnswers, Samples
from llamafarm_ray.models.chat import TokenisedChat, render_chat, tokenise_turns
from llamafarm_ray.types import Digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["answer_held_out", "answer_settings"]

_EXAMPLES_A_CHUNK: Final = 32
"""Chunks don't depend on the number of workers, so neither do batches and scores."""


@dataclass(frozen=True, slots=True)
class _Example:
    """A row as tokens: the chats whose answers count, as training has them; the last prompt, and the answer to it.

    ``expected_calls`` are the calls of tools in that answer; None without tools.
    """

    chats: list[TokenisedChat]
    prompt_ids: list[int]
    reference: str
    question: str
    expected_calls: tuple[dict[str, object], ...] | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """An engine, and which of its models is asked."""

    engine: Engine
    model: MeasuredModel
    with_adapter: bool

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, report: Report) -> list[Generated]:
        """See `Engine.generate`."""
        kept = self.model.kept_answers(with_adapter=self.with_adapter)
        return self.engine.generate(prompts, max_new_tokens, report, with_adapter=self.with_adapter, kept=kept)

    def losses(self, sequences: Sequence[Scored], report: Report) -> list[Loss]:
        """See `Engine.losses`."""
        kept = self.model.kept_answers(with_adapter=self.with_adapter)
        return self.engine.losses(sequences, report, "perplexity", with_adapter=self.with_adapter, kept=kept)


def answer_settings(settings: Mapping[str, Any], report: Report) -> HeldOutAnswers:
    """Run an `EvaluationJob` given as plain fields, or one worker's part of it."""
    fields = {name: value for name, value in settings.items() if name not in {"part", "num_parts"}}
    return answer_held_out(EvaluationJob(**fields), report, settings.get("part", 0), settings.get("num_parts", 1))


def answer_held_out(job: EvaluationJob, report: Report, part: int = 0, num_parts: int = 1) -> HeldOutAnswers:
    """Return the answers of the model, and of its baseline: the rival, else the base without the adapter.

    The base model is loaded once; the adapter is switched off for the baseline.

    Args:
        report: called with the current activity.
        part: number of the worker, from 0.
        num_parts: workers that share the examples, chunk by chunk.

    Raises:
        UserError: base model, adapter or rows are unusable.
    """
    share = 0.5 if job.rival else 1.0
    places = [at for at in range(len(job.rows)) if at // _EXAMPLES_A_CHUNK % num_parts == part]
    progress = part_of(report, "", 0.0, share)
    samples, baseline, template = _ask(job, job.model, places, progress)
    if job.rival:
        baseline, _, _ = _ask(job, job.rival, places, part_of(report, "baseline: ", 0.5, 0.5))
    return HeldOutAnswers(samples, baseline, template)


def _ask(
    job: EvaluationJob, model: MeasuredModel, places: Sequence[int], report: Report
) -> tuple[Samples, Samples | None, str]:
    """Return a model's answers, those of its base where they are the baseline, and the digest of its template."""
    report("loading the model", 0.0)
    with opened(model) as engine:
        examples = _make_examples(engine.tokenizer, job, places, max_length=engine.max_length)
        template = Digest.of(str(engine.tokenizer.chat_template).encode())

        def answers(progress: Report, *, with_adapter: bool = True) -> Samples:
            return _answer_chunks(job, _Asked(engine, model, with_adapter), examples, progress)

        if not (job.baseline and model.has_base and job.rival is None):
            return answers(report), None, template
        baseline = answers(part_of(report, "baseline: ", 0.0, 0.5), with_adapter=False)
        return answers(part_of(report, "", 0.5, 0.5)), baseline, template


def _make_examples(
    tokenizer: PreTrainedTokenizerBase, job: EvaluationJob, places: Sequence[int], *, max_length: int | None
) -> dict[int, _Example]:
    """Tokenize rows, by their places, and leave out those with no answer or longer than the model was made for."""
    examples = {}
    for at in places:
        row = job.rows[at]
        messages = row["messages"]
        last = max(
            (
                index
                for index, message in enumerate(messages)
                if message["role"] == "assistant" and message.get("train") is not False
            ),
            default=None,
        )
        if last is None:
            continue
        chats = tokenise_turns(tokenizer, messages, row.get("tools"))
        prompt = render_chat(tokenizer, messages[:last], for_answer=True, tools=row.get("tools"))
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        with_answer = len(prompt_ids) + job.max_new_tokens if job.generates else 0
        needed = max(with_answer, *(len(chat.input_ids) for chat in chats))
        if any(any(chat.trained[1:]) for chat in chats) and (max_length is None or needed <= max_length):
            asked = messages[last - 1]["content"] if last else ""
            calls = tuple(_calls(messages[last])) if row.get("tools") else None
            reference = str(messages[last]["content"] or "").strip()
            examples[at] = _Example(chats, list(prompt_ids), reference, asked, calls)
    return examples


def _calls(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of tools in a turn, which rows have as JSON text."""
    calls = turn.get("tool_calls") or []
    return list(json.loads(calls)) if isinstance(calls, str) else list(calls)


def _answer_chunks(job: EvaluationJob, asked: _Asked, examples: dict[int, _Example], report: Report) -> Samples:
    """Return the answers and losses of the model as it is now, chunk by chunk of the rows."""
    chunks: dict[int, dict[int, _Example]] = {}
    for at, example in examples.items():
        chunks.setdefault(at // _EXAMPLES_A_CHUNK, {})[at] = example
    found: Samples = {}
    for number, chunk in enumerate(chunks.values()):
        progress = part_of(report, "", number / len(chunks), 1 / len(chunks))
        found |= _samples(job, asked, chunk, progress)
    return found


def _samples(job: EvaluationJob, asked: _Asked, examples: dict[int, _Example], report: Report) -> Samples:
    """Return the answers and losses of the model as it is now."""
    share = 0.5 if job.generates and job.needs_losses else 1.0
    chosen = list(examples.values())
    losses: list[tuple[float, int, int]] | None = None
    answers: list[Generated] | None = None
    if job.needs_losses:
        losses = _losses(asked, chosen, part_of(report, "", 0.0, share))
    if job.generates:
        prompts = [example.prompt_ids for example in chosen]
        progress = part_of(report, "", 1.0 - share, share)
        answers = asked.generate(prompts, job.max_new_tokens, progress)
    samples = {}
    for number, (at, example) in enumerate(examples.items()):
        loss_sum, num_tokens, num_bytes = losses[number] if losses else (None, None, None)
        answer = answers[number] if answers else None
        samples[at] = Sample(
            answer=answer.text if answer else "",
            accepted=(example.reference,),
            question=example.question,
            schema=True if _is_document(example.reference) else None,
            expected_calls=example.expected_calls,
            num_tokens=answer.num_tokens if answer else None,
            seconds=answer.seconds if answer else None,
            confidence=answer.confidence if answer else None,
            loss_sum=loss_sum,
            num_loss_tokens=num_tokens,
            num_loss_bytes=num_bytes,
        )
    return samples


def _is_document(reference: str) -> bool:
    """Return True for a reference that is a JSON object or list, so that an answer has to be JSON too."""
    return reference.startswith(("{", "[")) and json_valid(reference) == 1


def _losses(asked: _Asked, examples: list[_Example], report: Report) -> list[tuple[float, int, int]]:
    """Return each example's sum of the answers' cross-entropies in nats, and how many tokens and bytes they have."""
    found = [(0.0, 0, 0) for _ in examples]
    chats = [(number, chat) for number, example in enumerate(examples) for chat in example.chats]
    scored = [Scored(chat.input_ids, chat.trained) for _, chat in chats]
    losses = asked.losses(scored, report)
    for (number, _), loss in zip(chats, losses, strict=True):
        total, num_tokens, num_bytes = found[number]
        found[number] = (total + loss.total, num_tokens + loss.num_tokens, num_bytes + loss.num_bytes)
    return found
