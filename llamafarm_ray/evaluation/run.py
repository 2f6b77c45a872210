"""Measure a model on held-out examples in this process: no Ray here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import InputError, UnsupportedError, did_you_mean
from llamafarm_ray.evaluation.comparison import compare
from llamafarm_ray.evaluation.comparison.pairing import paired_scores
from llamafarm_ray.evaluation.generation import Generated, generate, load_for_inference
from llamafarm_ray.evaluation.losses import Scored, losses_of
from llamafarm_ray.evaluation.metrics import METRICS, Sample
from llamafarm_ray.evaluation.progress import Report, part_of
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult, improvement, now
from llamafarm_ray.models.chat import TokenisedChat, render_chat, tokenise_turns
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.types import Digest

__all__ = ["HELD_OUT_METRICS", "EvaluationJob", "check_metrics", "evaluate_settings", "run_evaluation"]

HELD_OUT_METRICS = {
    "perplexity": "perplexity",
    "byte_perplexity": "byte_perplexity",
    "bleu": "bleu",
    "chrf": "chrf",
    "rouge": "rouge_l",
    "exact_match": "exact_match",
    "f1": "f1",
    "contains": "contains",
    "numeric_match": "numeric_match",
    "refusal_rate": "refusal_rate",
    "length": "length",
    "tokens_per_second": "tokens_per_second",
}
"""Names in ``evaluation.metrics``, with the metrics that they are."""

_OF_LOSSES = {"perplexity", "byte_perplexity"}


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """A measurement; see `llamafarm_ray.evaluation.evaluate`."""

    base_model: Path
    adapter: Path | None
    rows: list[dict[str, Any]]
    metrics: tuple[str, ...]
    max_new_tokens: int
    model_id: str
    baseline: bool
    rival: tuple[Path, Path | None] | None = None

    @property
    def generates(self) -> bool:
        """True if a metric needs answers."""
        return any(metric not in _OF_LOSSES for metric in self.metrics)

    @property
    def needs_losses(self) -> bool:
        """True if a metric needs the references' losses."""
        return any(metric in _OF_LOSSES for metric in self.metrics)


@dataclass(frozen=True, slots=True)
class _Example:
    """A row as tokens: the chats whose answers count, as training has them; the last prompt, and the answer to it."""

    chats: list[TokenisedChat]
    prompt_ids: list[int]
    reference: str
    question: str


Samples = dict[int, Sample]
"""Answers by the place of their rows."""


def check_metrics(metrics: Sequence[str]) -> None:
    """Check that all can be measured.

    Raises:
        UnsupportedError: one can't.
    """
    for metric in metrics:
        if metric not in HELD_OUT_METRICS:
            raise UnsupportedError(
                f"evaluation.metrics names {metric!r}, which can't be measured on held-out examples.",
                hint=did_you_mean(metric, HELD_OUT_METRICS),
            )


def evaluate_settings(settings: Mapping[str, Any], report: Report) -> EvaluationResult:
    """Measure what the fields of an `EvaluationJob` say."""
    return run_evaluation(EvaluationJob(**settings), report)


def run_evaluation(job: EvaluationJob, report: Report) -> EvaluationResult:
    """Measure the adapter (or the base model alone) and its baseline: the rival, else the base without the adapter.

    The base model is loaded once; the adapter is switched off for the baseline.

    Raises:
        UserError: base model, adapter, rows or metrics are unusable.
    """
    check_metrics(job.metrics)
    quiet_libraries()
    part = 0.5 if job.rival else 1.0
    samples, baseline, template = _ask(job, job.base_model, job.adapter, part_of(report, "", 0.0, part))
    if job.rival:
        baseline, _, _ = _ask(job, *job.rival, part_of(report, "baseline: ", 0.5, 0.5))
    metrics, others = _scores(job, samples), _scores(job, baseline) if baseline else None
    first = next(iter(metrics), None)
    documents = [row.get("document") for row in job.rows]
    names = {HELD_OUT_METRICS[metric]: HELD_OUT_METRICS[metric] for metric in job.metrics}
    pairs = paired_scores(samples, baseline, documents, names) if baseline else {}
    scores = BenchmarkScores(
        metrics=metrics,
        improvement=improvement(first, metrics[first], others[first]) if first and others and first in others else None,
        baseline=others,
        num_examples=len(samples),
        num_skipped=len(job.rows) - len(samples),
        comparison={name: one.to_dict() for name, one in compare(pairs).items()} or None,
        digests={"template": template},
    )
    return EvaluationResult(job.model_id, now(), {"held_out": scores})


def _ask(
    job: EvaluationJob, base_model: Path, adapter: Path | None, report: Report
) -> tuple[Samples, Samples | None, str]:
    """Return a model's answers, those of its base where they are the baseline, and the digest of its template."""
    check_base_model(base_model)
    tokenizer = load_tokenizer(base_model)
    report("loading the model", 0.0)
    model = load_for_inference(base_model, adapter)
    examples = _make_examples(tokenizer, job, max_length=getattr(model.config, "max_position_embeddings", None))
    if not examples:
        raise InputError(
            f"None of the {len(job.rows)} examples can be measured.",
            hint="They need an assistant turn, and must not be longer than the model allows.",
        )
    template = Digest.of(str(tokenizer.chat_template).encode())
    with_baseline = job.baseline and adapter is not None and job.rival is None
    share, baseline = 0.5 if with_baseline else 1.0, None
    if with_baseline:
        with model.disable_adapter():
            baseline = _samples(job, model, tokenizer, examples, part_of(report, "baseline: ", 0.0, share))
    samples = _samples(job, model, tokenizer, examples, part_of(report, "", 1.0 - share, share))
    return samples, baseline, template


def _make_examples(tokenizer: Any, job: EvaluationJob, *, max_length: int | None) -> dict[int, _Example]:
    """Tokenize rows, by their places, and leave out those with no answer or longer than the model was made for."""
    examples = {}
    for at, row in enumerate(job.rows):
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
            examples[at] = _Example(chats, list(prompt_ids), messages[last]["content"].strip(), asked)
    return examples


def _samples(job: EvaluationJob, model: Any, tokenizer: Any, examples: dict[int, _Example], report: Report) -> Samples:
    """Return the answers and losses of the model as it is now."""
    share = 0.5 if job.generates and job.needs_losses else 1.0
    chosen = list(examples.values())
    losses: list[tuple[float, int, int]] | None = None
    answers: list[Generated] | None = None
    if job.needs_losses:
        losses = _losses(model, tokenizer, chosen, part_of(report, "", 0.0, share))
    if job.generates:
        prompts = [example.prompt_ids for example in chosen]
        answers = generate(model, tokenizer, prompts, job.max_new_tokens, part_of(report, "", 1.0 - share, share))
    samples = {}
    for number, (at, example) in enumerate(examples.items()):
        loss_sum, num_tokens, num_bytes = losses[number] if losses else (None, None, None)
        answer = answers[number] if answers else None
        samples[at] = Sample(
            answer=answer.text if answer else "",
            accepted=(example.reference,),
            question=example.question,
            num_tokens=answer.num_tokens if answer else None,
            seconds=answer.seconds if answer else None,
            loss_sum=loss_sum,
            num_loss_tokens=num_tokens,
            num_loss_bytes=num_bytes,
        )
    return samples


def _scores(job: EvaluationJob, samples: Samples) -> dict[str, float]:
    """Return the scores in the order of ``job.metrics``, without those that could not be measured."""
    chosen = list(samples.values())
    found = {HELD_OUT_METRICS[name]: METRICS[HELD_OUT_METRICS[name]].measure(chosen).value for name in job.metrics}
    return {name: value for name, value in found.items() if value is not None}


def _losses(model: Any, tokenizer: Any, examples: list[_Example], report: Report) -> list[tuple[float, int, int]]:
    """Return each example's sum of the answers' cross-entropies in nats, and how many tokens and bytes they have."""
    found = [(0.0, 0, 0) for _ in examples]
    chats = [(number, chat) for number, example in enumerate(examples) for chat in example.chats]
    scored = [Scored(chat.input_ids, chat.trained) for _, chat in chats]
    for (number, _), loss in zip(chats, losses_of(model, tokenizer, scored, report, "perplexity"), strict=True):
        total, num_tokens, num_bytes = found[number]
        found[number] = (total + loss.total, num_tokens + loss.num_tokens, num_bytes + loss.num_bytes)
    return found
