"""Shared parts of objectives that compare sequences: splitting a batch, and a policy's gain over the base model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llamafarm_ray.models.chat import TokenisedChat, tokenise_answer
from llamafarm_ray.training.batches import Batch, Layout, collate
from llamafarm_ray.training.compute.forward import sequence_log_probs
from llamafarm_ray.training.rows import IGNORED, Row, TokenisedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llamafarm_ray.training.strategies import Strategy

__all__ = ["answer_row", "batch_of", "cut_row", "reference_log_probs", "sequences_of"]


def cut_row(chat: TokenisedChat, max_length: int) -> TokenisedRow:
    """A chat as one sequence that trains the marked tokens.

    One longer than ``max_length`` loses its end. If nothing of an answer is left then, because the prompt alone is too
    long, the row is left out rather than trained on a cut prompt.
    """
    # The first token has nothing before it, so it can't be predicted.
    trained = [False, *chat.trained[1:max_length]]
    if not any(trained):
        return TokenisedRow.left_out("prompt longer than max_length" if any(chat.trained) else "empty answer")
    input_ids = chat.input_ids[:max_length]
    labels = [token if train else IGNORED for token, train in zip(input_ids, trained, strict=True)]
    return TokenisedRow(input_ids, labels)


def answer_row(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any], answer: str, max_length: int
) -> TokenisedRow:
    """A prompt and an answer as one sequence that trains the answer's tokens only; cut as by `cut_row`."""
    return cut_row(tokenise_answer(tokenizer, [*messages, {"role": "assistant", "content": answer}]), max_length)


def sequences_of(batch: Batch) -> list[tuple[np.ndarray, np.ndarray]]:
    """The tokens and labels of each sequence of a batch, without padding; none of an empty batch."""
    if not batch.num_rows:
        return []
    ids, labels = batch.input_ids.cpu().numpy(), batch.labels.cpu().numpy()
    if batch.bounds is not None:
        parts = [(ids[0, start:end], labels[0, start:end]) for start, end in pairwise(batch.bounds.tolist())]
        if not batch.num_shared:
            return parts
        shared, *own = parts
        return [(np.concatenate([shared[0], part[0]]), np.concatenate([shared[1], part[1]])) for part in own]
    assert batch.attention_mask is not None  # a batch that isn't packed has one
    lengths = batch.attention_mask.sum(dim=1).tolist()
    return [(ids[index, :length], labels[index, :length]) for index, length in enumerate(lengths)]


def batch_of(sequences: Sequence[tuple[np.ndarray, np.ndarray]], like: Batch) -> Batch:
    """Sequences, one a row, put together as ``like`` is, on its device; none become an empty batch."""
    rows = [Row(ids, labels, [len(ids)]) for ids, labels in sequences]
    # What fills up is masked: any token will do.
    return collate(rows, Layout(packed=like.bounds is not None, pad_id=0, shares_prefix=like.num_shared > 0)).to(
        like.input_ids.device
    )


def reference_log_probs(strategy: Strategy, batches: Sequence[Batch]) -> list[torch.Tensor]:
    """The base model's log-probability of each batch's sequences: tensors of shape (S,), in fp32 and nats."""
    with torch.no_grad(), strategy.reference() as model, strategy.autocast():
        return [sequence_log_probs(model, batch)[0] for batch in batches]
