"""A model in this process: loading, and greedy answers in batches of like length."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from transformers import LogitsProcessorList

from llamafarm_ray.evaluation.kept import KeptBatches, kept_or_made
from llamafarm_ray.evaluation.progress import Report
from llamafarm_ray.models.adapters import load_adapter
from llamafarm_ray.models.chat import end_of_turn_ids
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.processor import matmul_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Generated", "by_length", "generate", "inference_precision", "load_for_inference", "pad"]

_BATCH_SIZE = 8

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer.

    Args:
        num_tokens: generated tokens, without padding.
        seconds: time that its batch took.
        confidence: geometric mean of the probabilities of its tokens, 0 to 1; None where the engine does not tell.
    """

    text: str
    num_tokens: int
    seconds: float
    confidence: float | None


def inference_precision() -> tuple[torch.device, torch.dtype]:
    """Return this machine's best device, and the type of numbers that models compute in there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return device, matmul_dtype(device) if device.type == "cuda" else torch.float32


def load_for_inference(base_model: Path, adapter: Path | None) -> PreTrainedModel:
    """Return a model, with its adapter if there is one, on this machine's best device."""
    device, dtype = inference_precision()
    model = load_model(base_model, dtype=dtype)
    if adapter is not None:
        model = load_adapter(model, adapter)
    model.config.use_cache = True
    return model.to(device).eval()


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    report: Report,
    *,
    kept: KeptBatches | None = None,
) -> list[Generated]:
    """Return the most probable answer, token by token, to each prompt, in the prompts' order.

    Args:
        prompts: token ids of the prompts.
        report: called with the share that is done.
        kept: answers of an evaluation that was killed; None keeps none.
    """
    answers: dict[int, Generated] = {}
    for batch in by_length(range(len(prompts)), lambda at: len(prompts[at]), report, "answers"):
        rows = [list(prompts[at]) for at in batch]
        asked = ["answers", rows, max_new_tokens, str(model.dtype)]
        make = functools.partial(_generate_batch, model, tokenizer, rows, max_new_tokens)
        found = kept_or_made(kept, asked, Generated, len(batch), make)
        answers |= dict(zip(batch, found, strict=True))
    return [answers[at] for at in range(len(prompts))]


def _generate_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], max_new_tokens: int
) -> list[Generated]:
    stop_ids = end_of_turn_ids(tokenizer)
    # On the left, so that every prompt ends where its answer begins.
    input_ids, mask = pad(rows, tokenizer.pad_token_id, left=True)
    likeliest = _Likeliest()
    began = time.perf_counter()
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
        logits_processor=LogitsProcessorList([likeliest]),
    )
    new = output[:, input_ids.shape[1] :].cpu()
    seconds = time.perf_counter() - began
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    log_probs = torch.stack(likeliest.log_probs, dim=1).cpu()
    found = []
    for text, ids, of_tokens in zip(texts, new.tolist(), log_probs, strict=True):
        num_tokens = _num_generated(ids, stop_ids)
        confidence = of_tokens[:num_tokens].mean().exp().item()
        found.append(Generated(text.strip(), num_tokens, seconds, confidence))
    return found


class _Likeliest:
    """Keeps the log-probability of the likeliest token of each step, which greedy decoding chooses."""

    def __init__(self) -> None:
        self.log_probs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  transformers' own
        self.log_probs.append(scores.float().log_softmax(-1).max(-1).values)
        return scores


def _num_generated(ids: Sequence[int], stop_ids: Sequence[int]) -> int:
    """Return the number of tokens up to the end of the turn; what follows fills the batch."""
    return next((at for at, token in enumerate(ids, 1) if token in stop_ids), len(ids))


def by_length(rows: Sequence[_Row], length: Callable[[_Row], int], report: Report, what: str) -> Iterator[list[_Row]]:
    """Yield batches of rows of like length, the longest first, so that too little memory shows at once."""
    ordered = sorted(rows, key=length, reverse=True)
    for start in range(0, len(ordered), _BATCH_SIZE):
        yield ordered[start : start + _BATCH_SIZE]
        report(what, min(1.0, (start + _BATCH_SIZE) / len(ordered)))


def pad(rows: list[list[int]], value: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows as a tensor (rows, tokens), and a mask that is 1 where it isn't filled up."""
    width = max(len(row) for row in rows)
    padded = torch.full((len(rows), width), value, dtype=torch.int64)
    mask = torch.zeros_like(padded)
    for index, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        padded[index, where] = torch.tensor(row)
        mask[index, where] = 1
    return padded, mask
