"""Measure a model in this process: no Ray here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.nn import functional

from llamafarm_ray.errors import InputError, UnsupportedError, did_you_mean
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.benchmarks.digests import digest_of
from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan, run_benchmarks
from llamafarm_ray.evaluation.benchmarks.store import ResultStore
from llamafarm_ray.evaluation.custom.questions import Question
from llamafarm_ray.evaluation.custom.sets import Answerer, CustomSet, measure_set
from llamafarm_ray.evaluation.metrics import bleu, perplexity, rouge_l
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult, improvement, now
from llamafarm_ray.models.adapters import load_adapter
from llamafarm_ray.models.chat import TokenisedChat, end_of_turn_ids, render_chat, tokenise_turns
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.storage import Manifest

__all__ = ["METRICS", "EvaluationJob", "check_metrics", "run_evaluation"]

METRICS = ("perplexity", "bleu", "rouge")
"""What can be measured."""

_BATCH_SIZE = 8

_Row = TypeVar("_Row")

Report = Callable[[str, float], None]
"""Called with what is being done and how much of the whole is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """What to measure; see `llamafarm_ray.evaluation.evaluate`."""

    base_model: Path
    adapter: Path | None
    rows: list[dict[str, Any]]
    metrics: tuple[str, ...]
    max_new_tokens: int
    model_id: str
    baseline: bool
    custom: tuple[CustomSet, ...] = ()
    benchmarks: BenchmarkPlan | None = None
    store: ResultStore | None = None


@dataclass(frozen=True, slots=True)
class _Example:
    """A row as tokens: the chats whose answers count, as training has them; the last prompt, and the answer to it."""

    chats: list[TokenisedChat]
    prompt_ids: list[int]
    reference: str


def check_metrics(metrics: Sequence[str]) -> None:
    """Check that all can be measured.

    Raises:
        UnsupportedError: one can't.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise UnsupportedError(
                f"evaluation.metrics names {metric!r}, which this release can't measure.",
                hint=did_you_mean(metric, METRICS),
            )


def run_evaluation(job: EvaluationJob, report: Report) -> EvaluationResult:
    """Measure the adapter (or the base model alone) and, as its baseline, the base model without it.

    The base model is loaded once; the adapter is switched off for the baseline.

    Raises:
        UserError: base model, adapter, rows or metrics are unusable.
    """
    check_metrics(job.metrics)
    quiet_libraries()
    check_base_model(job.base_model)
    tokenizer = load_tokenizer(job.base_model)
    report("loading the model", 0.0)
    model = _load(job)
    examples = _make_examples(tokenizer, job, max_length=getattr(model.config, "max_position_embeddings", None))
    if not examples and job.rows:
        raise InputError(
            f"None of the {len(job.rows)} examples can be measured.",
            hint="They need an assistant turn, and must not be longer than the model allows.",
        )
    benchmarks = {"held_out": _measure_held_out(job, model, tokenizer, examples, report)} if examples else {}
    answered: list[Answered] = []
    for asked in job.custom:
        report(asked.name, 0.0)
        answer = partial(_answer, model, tokenizer, asked.max_new_tokens or job.max_new_tokens, report)
        with_baseline = job.baseline and job.adapter is not None
        scores, one_by_one = measure_set(
            asked, answer, partial(_answer_without, model, answer) if with_baseline else None
        )
        benchmarks[asked.name] = scores
        answered += one_by_one
    if job.benchmarks is not None:
        report(", ".join(job.benchmarks.names), 0.0)
        benchmarks |= _run_benchmarks(job, job.benchmarks, model, tokenizer)
    return EvaluationResult(job.model_id, now(), benchmarks, answered=tuple(answered))


def _run_benchmarks(job: EvaluationJob, plan: BenchmarkPlan, model: Any, tokenizer: Any) -> dict[str, BenchmarkScores]:
    base = Manifest.of_folder(job.base_model).digest
    if job.adapter is None:
        return run_benchmarks(plan, model, tokenizer, weights=base, store=job.store)
    weights = digest_of([base, Manifest.of_folder(job.adapter).digest])
    before = base if job.baseline else None
    return run_benchmarks(plan, model, tokenizer, weights=weights, base_weights=before, store=job.store)


def _measure_held_out(
    job: EvaluationJob, model: Any, tokenizer: Any, examples: list[_Example], report: Report
) -> BenchmarkScores:
    with_baseline = job.baseline and job.adapter is not None
    share = 0.5 if with_baseline else 1.0
    baseline = None
    if with_baseline:
        with model.disable_adapter():
            baseline = _measure(job, model, tokenizer, examples, _part(report, "baseline: ", 0.0, share))
    metrics = _measure(job, model, tokenizer, examples, _part(report, "", 1.0 - share, share))
    first = next(iter(metrics))
    return BenchmarkScores(
        metrics=metrics,
        improvement=improvement(first, metrics[first], baseline[first]) if baseline else None,
        baseline=baseline,
        num_examples=len(examples),
        num_skipped=len(job.rows) - len(examples),
    )


def _answer(
    model: Any, tokenizer: Any, max_new_tokens: int, report: Report, questions: Sequence[Question]
) -> list[str]:
    """Return the most probable answer to each question."""
    max_length = getattr(model.config, "max_position_embeddings", None)
    examples = []
    for question in questions:
        prompt = render_chat(tokenizer, list(question.messages), for_answer=True)
        ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        if max_length is not None and len(ids) + max_new_tokens > max_length:
            raise InputError(
                f"The question {question.id!r} has {len(ids)} tokens; with an answer the model reads {max_length}.",
                hint="Shorten it, or lower max_new_tokens.",
            )
        examples.append(_Example([], ids, ""))
    return _generate(model, tokenizer, examples, max_new_tokens, report)


def _answer_without(model: Any, answer: Answerer, questions: Sequence[Question]) -> list[str]:
    """Answer with the adapter switched off."""
    with model.disable_adapter():
        return answer(questions)


def _load(job: EvaluationJob) -> Any:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    model = load_model(job.base_model, dtype=torch.bfloat16 if has_bf16 else torch.float32)
    if job.adapter is not None:
        model = load_adapter(model, job.adapter)
    model.config.use_cache = True
    return model.to(device).eval()


def _make_examples(tokenizer: Any, job: EvaluationJob, *, max_length: int | None) -> list[_Example]:
    """Tokenise rows, and leave out those with no answer or longer than the model was made for."""
    generates = any(metric != "perplexity" for metric in job.metrics)
    examples = []
    for row in job.rows:
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
        needed = max(len(prompt_ids) + job.max_new_tokens if generates else 0, *(len(chat.input_ids) for chat in chats))
        if any(any(chat.trained[1:]) for chat in chats) and (max_length is None or needed <= max_length):
            examples.append(_Example(chats, list(prompt_ids), messages[last]["content"]))
    return examples


def _measure(
    job: EvaluationJob, model: Any, tokenizer: Any, examples: list[_Example], report: Report
) -> dict[str, float]:
    """The scores of the model as it is now, in the order of ``job.metrics``."""
    references = [example.reference.strip() for example in examples]
    answers: list[str] = []
    losses: tuple[float, int] = (0.0, 0)
    generates = any(metric != "perplexity" for metric in job.metrics)
    share = 0.5 if generates and "perplexity" in job.metrics else 1.0
    if "perplexity" in job.metrics:
        losses = _sum_losses(model, tokenizer.pad_token_id, examples, _part(report, "", 0.0, share))
    if generates:
        answers = _generate(model, tokenizer, examples, job.max_new_tokens, _part(report, "", 1.0 - share, share))
    scores: dict[str, float] = {}
    for metric in job.metrics:
        match metric:
            case "perplexity":
                scores["perplexity"] = perplexity(*losses)
            case "bleu":
                scores["bleu"] = bleu(answers, [[reference] for reference in references])
            case "rouge":
                scores["rouge_l"] = sum(
                    rouge_l(answer, [reference]) for answer, reference in zip(answers, references, strict=True)
                ) / len(answers)
    return scores


@torch.inference_mode()
def _sum_losses(model: Any, pad_id: int, examples: list[_Example], report: Report) -> tuple[float, int]:
    """The answers' cross-entropies in nats, summed over all examples, and how many tokens they have."""
    loss_sum, num_tokens = 0.0, 0
    chats = [chat for example in examples for chat in example.chats]
    for batch in _by_length(chats, lambda chat: len(chat.input_ids), report, "perplexity"):
        input_ids, mask = _pad([chat.input_ids for chat in batch], pad_id, left=False)
        trained, _ = _pad([[int(flag) for flag in chat.trained] for chat in batch], 0, left=False)
        logits = model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device)).logits
        # The logits at one position are about the token at the next.
        labels = input_ids.where(trained.bool(), -100)[:, 1:].flatten().to(model.device)
        losses = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels, reduction="sum")
        loss_sum += float(losses)
        num_tokens += int(trained[:, 1:].sum())
    return loss_sum, num_tokens


@torch.inference_mode()
def _generate(model: Any, tokenizer: Any, examples: list[_Example], max_new_tokens: int, report: Report) -> list[str]:
    """The most probable answer, token by token, to each example's last prompt; in the examples' order."""
    order = {id(example): index for index, example in enumerate(examples)}
    answers = [""] * len(examples)
    stop_ids = end_of_turn_ids(tokenizer)
    for batch in _by_length(examples, lambda example: len(example.prompt_ids), report, "answers"):
        # On the left, so that every prompt ends where its answer begins.
        input_ids, mask = _pad([example.prompt_ids for example in batch], tokenizer.pad_token_id, left=True)
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=stop_ids,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts = tokenizer.batch_decode(output[:, input_ids.shape[1] :], skip_special_tokens=True)
        for example, text in zip(batch, texts, strict=True):
            answers[order[id(example)]] = text.strip()
    return answers


def _by_length(rows: list[_Row], length: Callable[[_Row], int], report: Report, what: str) -> Iterator[list[_Row]]:
    """Batches of rows of like length, the longest first, so that too little memory shows at once."""
    ordered = sorted(rows, key=length, reverse=True)
    for start in range(0, len(ordered), _BATCH_SIZE):
        yield ordered[start : start + _BATCH_SIZE]
        report(what, min(1.0, (start + _BATCH_SIZE) / len(ordered)))


def _pad(rows: list[list[int]], value: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as a tensor (rows, tokens), and a mask that is 1 where it isn't filled up."""
    width = max(len(row) for row in rows)
    padded = torch.full((len(rows), width), value, dtype=torch.int64)
    mask = torch.zeros_like(padded)
    for index, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        padded[index, where] = torch.tensor(row)
        mask[index, where] = 1
    return padded, mask


def _part(report: Report, prefix: str, start: float, share: float) -> Report:
    """A report of one part of the whole."""

    def report_part(what: str, done: float) -> None:
        report(f"{prefix}{what}", start + share * done)

    return report_part
