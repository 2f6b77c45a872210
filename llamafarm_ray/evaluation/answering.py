"""Answers to held-out examples, and their losses, of a model in this process: no Ray here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamafarm_ray.evaluation.generation import Generated, generate, load_for_inference
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.losses import Scored, losses_of
from llamafarm_ray.evaluation.metrics import Sample, json_valid
from llamafarm_ray.evaluation.progress import Report, part_of
from llamafarm_ray.evaluation.run import EvaluationJob, HeldOutAnswers, Samples
from llamafarm_ray.models.chat import TokenisedChat, render_chat, tokenise_turns
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.types import Digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    expected_calls: tuple[dict[str, Any], ...] | None


def answer_settings(settings: Mapping[str, Any], report: Report) -> HeldOutAnswers:
    """Answer what the fields of an `EvaluationJob` say, or one worker's part of it."""
    fields = {name: value for name, value in settings.items() if name not in {"part", "num_parts"}}
    return answer_held_out(EvaluationJob(**fields), report, settings.get("part", 0), settings.get("num_parts", 1))


def answer_held_out(job: EvaluationJob, report: Report, part: int = 0, num_parts: int = 1) -> HeldOutAnswers:
    """Return the answers of the model, and of its baseline: the rival, else the base without the adapter.

    The base model is loaded once; the adapter is switched off for the baseline.

    Args:
        job: the measurement.
        report: called with what is being done.
        part: number of the worker, from 0.
        num_parts: workers that share the examples, chunk by chunk.

    Raises:
        UserError: base model, adapter or rows are unusable.
    """
    quiet_libraries()
    share = 0.5 if job.rival else 1.0
    places = [at for at in range(len(job.rows)) if at // _EXAMPLES_A_CHUNK % num_parts == part]
    kept = job.kept or (None, None)
    progress = part_of(report, "", 0.0, share)
    samples, baseline, template = _ask(job, job.base_model, job.adapter, places, progress, kept=kept)
    if job.rival:
        baseline, _, _ = _ask(job, *job.rival, places, part_of(report, "baseline: ", 0.5, 0.5), kept=kept[1:])
    return HeldOutAnswers(samples, baseline, template)


def _ask(
    job: EvaluationJob,
    base_model: Path,
    adapter: Path | None,
    places: Sequence[int],
    report: Report,
    *,
    kept: Sequence[KeptBatches | None],
) -> tuple[Samples, Samples | None, str]:
    """Return a model's answers, those of its base where they are the baseline, and the digest of its template."""
    check_base_model(base_model)
    tokenizer = load_tokenizer(base_model)
    report("loading the model", 0.0)
    model = load_for_inference(base_model, adapter)
    max_length = getattr(model.config, "max_position_embeddings", None)
    examples = _make_examples(tokenizer, job, places, max_length=max_length)
    template = Digest.of(str(tokenizer.chat_template).encode())
    with_baseline = job.baseline and adapter is not None and job.rival is None
    share, baseline = 0.5 if with_baseline else 1.0, None
    if with_baseline:
        with model.disable_adapter():
            progress = part_of(report, "baseline: ", 0.0, share)
            baseline = _answer_chunks(job, model, tokenizer, examples, progress, kept=kept[1])
    samples = _answer_chunks(job, model, tokenizer, examples, part_of(report, "", 1.0 - share, share), kept=kept[0])
    return samples, baseline, template


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


def _answer_chunks(
    job: EvaluationJob,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: dict[int, _Example],
    report: Report,
    *,
    kept: KeptBatches | None,
) -> Samples:
    """Return the answers and losses of the model as it is now, chunk by chunk of the rows."""
    chunks: dict[int, dict[int, _Example]] = {}
    for at, example in examples.items():
        chunks.setdefault(at // _EXAMPLES_A_CHUNK, {})[at] = example
    found: Samples = {}
    for number, chunk in enumerate(chunks.values()):
        progress = part_of(report, "", number / len(chunks), 1 / len(chunks))
        found |= _samples(job, model, tokenizer, chunk, progress, kept=kept)
    return found


def _samples(
    job: EvaluationJob,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: dict[int, _Example],
    report: Report,
    *,
    kept: KeptBatches | None,
) -> Samples:
    """Return the answers and losses of the model as it is now."""
    share = 0.5 if job.generates and job.needs_losses else 1.0
    chosen = list(examples.values())
    losses: list[tuple[float, int, int]] | None = None
    answers: list[Generated] | None = None
    if job.needs_losses:
        losses = _losses(model, tokenizer, chosen, part_of(report, "", 0.0, share), kept)
    if job.generates:
        prompts = [example.prompt_ids for example in chosen]
        progress = part_of(report, "", 1.0 - share, share)
        answers = generate(model, tokenizer, prompts, job.max_new_tokens, progress, kept=kept)
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


def _losses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[_Example],
    report: Report,
    kept: KeptBatches | None,
) -> list[tuple[float, int, int]]:
    """Return each example's sum of the answers' cross-entropies in nats, and how many tokens and bytes they have."""
    found = [(0.0, 0, 0) for _ in examples]
    chats = [(number, chat) for number, example in enumerate(examples) for chat in example.chats]
    scored = [Scored(chat.input_ids, chat.trained) for _, chat in chats]
    losses = losses_of(model, tokenizer, scored, report, "perplexity", kept=kept)
    for (number, _), loss in zip(chats, losses, strict=True):
        total, num_tokens, num_bytes = found[number]
        found[number] = (total + loss.total, num_tokens + loss.num_tokens, num_bytes + loss.num_bytes)
    return found
