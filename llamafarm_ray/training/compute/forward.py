"""One forward pass of a micro-batch, with logits at those positions only that something is learnt from.

The output head of a small model is most of its work, and prompt tokens need none of it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from llamafarm_ray.training.batches import Batch
from llamafarm_ray.training.rows import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["TrainedLogits", "inputs_of", "sequence_log_probs", "trained_logits"]


@dataclass(frozen=True, slots=True)
class TrainedLogits:
    """Model outputs at the N positions before a trained token.

    Args:
        logits: of shape (N, vocabulary).
        targets: int64 of shape (N,), the trained tokens.
        sequence: int64 of shape (N,), the number of the sequence in the batch that each belongs to.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    sequence: torch.Tensor


def inputs_of(batch: Batch) -> dict[str, object]:
    """The keyword arguments with which a transformers model reads a batch."""
    inputs: dict[str, object] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.bounds is not None:
        inputs |= {
            "position_ids": batch.position_ids,
            "cu_seq_lens_q": batch.bounds,
            "cu_seq_lens_k": batch.bounds,
            "max_length_q": max(batch.num_shared, batch.longest - batch.num_shared),
            "max_length_k": batch.longest,
            "use_cache": False,
        }
    return inputs


def trained_logits(model: PreTrainedModel, batch: Batch) -> TrainedLogits:
    """Run the model over a batch.

    An empty batch yields one position whose target is ``IGNORED``, so that the model runs on every worker.
    """
    inputs = inputs_of(batch)
    trained = batch.labels[:, 1:] != IGNORED  # the logits at one position are about the token at the next
    if not bool(trained.any()):
        trained[0, :1] = True
        if trained.shape[1] == 0:  # a single token: nothing follows, but the model must run
            logits = model(**inputs).logits[0, :1]
            return TrainedLogits(
                logits, logits.new_full((1,), IGNORED, dtype=torch.int64), logits.new_zeros(1, dtype=torch.int64)
            )
    rows, places = trained.nonzero(as_tuple=True)
    targets = batch.labels[:, 1:][rows, places]
    if _keeps_logits(model):
        kept, columns = torch.unique(places, return_inverse=True)
        logits = model(**inputs, logits_to_keep=kept).logits[rows, columns]
    else:
        logits = model(**inputs).logits[rows, places]
    if batch.bounds is None:
        sequence = rows
    else:
        own = batch.bounds[1:] if batch.num_shared else batch.bounds
        sequence = torch.bucketize(places, own[1:-1].to(places.dtype), right=True)
    return TrainedLogits(logits, targets, sequence)


def sequence_log_probs(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probability of each sequence's trained tokens, and how many they are.

    Returns:
        Two tensors of shape (S,): sums in fp32 and nats, and counts.
    """
    found = trained_logits(model, batch)
    each = -functional.cross_entropy(found.logits.float(), found.targets, ignore_index=IGNORED, reduction="none")
    sums = each.new_zeros(batch.num_sequences).index_add(0, found.sequence, each)
    counted = (found.targets != IGNORED).to(each.dtype)
    return sums, counted.new_zeros(batch.num_sequences).index_add(0, found.sequence, counted)


def _keeps_logits(model: PreTrainedModel) -> bool:
    """Return True if the transformers model under any wrapper takes ``logits_to_keep``."""
    known: bool | None = getattr(model, "_llamafarm_keeps_logits", None)
    if known is None:
        inner = model
        while (below := getattr(inner, "module", None)) is not None:  # DistributedDataParallel, DeepSpeed
            inner = below
        if hasattr(inner, "get_base_model"):  # peft
            inner = inner.get_base_model()
        known = "logits_to_keep" in inspect.signature(inner.forward).parameters
        model._llamafarm_keeps_logits = known  # noqa: SLF001 - looked up once, not in every step
    return known
