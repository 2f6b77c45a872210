"""Losses of given texts under a model in this process, in batches of like length."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from llamafarm_ray.evaluation.generation import by_length, pad
from llamafarm_ray.evaluation.kept import KeptBatches, kept_or_made
from llamafarm_ray.evaluation.progress import Report

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Loss", "Scored", "losses_of", "num_spelled_bytes", "whole_text"]


@dataclass(frozen=True, slots=True)
class Scored:
    """A sequence of tokens.

    Args:
        counted: as long as ``input_ids``; true where a token's loss counts. The first token has none.
    """

    input_ids: list[int]
    counted: list[bool]


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of a sequence.

    Args:
        total: cross-entropies of the counted tokens in nats, summed.
        num_bytes: bytes of UTF-8 that they spell.
    """

    total: float
    num_tokens: int
    num_bytes: int


def whole_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Scored:
    """Return the tokens of a text after the beginning of text, where the tokenizer has a sign for it."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    start = [] if begin is None else [begin]
    return Scored(start + ids, [False] * len(start) + [True] * len(ids))


@torch.inference_mode()
def losses_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Scored],
    report: Report,
    what: str,
    *,
    kept: KeptBatches | None = None,
) -> list[Loss]:
    """Return the loss of each sequence, in their order.

    Args:
        report: called with the share that is done.
        kept: losses of an evaluation that was killed; None keeps none.
    """
    losses: dict[int, Loss] = {}
    for batch in by_length(range(len(sequences)), lambda at: len(sequences[at].input_ids), report, what):
        rows = [sequences[at] for at in batch]
        asked = ["losses", [[one.input_ids, list(map(bool, one.counted))] for one in rows], str(model.dtype)]
        make = functools.partial(_batch_losses, model, tokenizer, rows)
        found = kept_or_made(kept, asked, Loss, len(batch), make)
        losses |= dict(zip(batch, found, strict=True))
    return [losses[at] for at in range(len(sequences))]


def _batch_losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Scored]) -> list[Loss]:
    input_ids, mask = pad([one.input_ids for one in rows], tokenizer.pad_token_id, left=False)
    counted, _ = pad([[int(flag) for flag in one.counted] for one in rows], 0, left=False)
    logits = model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device)).logits
    # The logits at one position are about the token at the next.
    labels = input_ids.where(counted.bool(), -100)[:, 1:].to(model.device)
    losses = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten(), reduction="none")
    found = []
    for one, total in zip(rows, losses.view(labels.shape).sum(dim=1).tolist(), strict=True):
        ids = [token for token, flag in zip(one.input_ids[1:], one.counted[1:], strict=True) if flag]
        found.append(Loss(total, len(ids), num_spelled_bytes(tokenizer, ids)))
    return found


def num_spelled_bytes(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    """Return the bytes of UTF-8 that tokens spell, without special ones."""
    return len(tokenizer.decode(list(ids), skip_special_tokens=True).encode("utf-8", "replace"))
