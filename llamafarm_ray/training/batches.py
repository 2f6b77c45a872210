"""From an epoch's rows to a worker's steps: windows of micro-batches, as many on every worker.

A *window* is what one optimizer step sees, over all workers: ``batch_size`` rows times
``gradient_accumulation_steps`` times the workers, fewer at an epoch's end. Its rows are dealt to the workers like
cards, the longest first and every other round backwards, so that each gets about as many tokens. Every worker runs
as many micro-batches as the others, or the collectives inside a step would wait for each other for ever: who has no
row left runs an empty one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.rows import IGNORED, Row

__all__ = ["Batch", "Layout", "Window", "collate", "windows"]

_MIN_SAVED = 8
"""Tokens that sharing a prefix must save: one more part costs each layer's attention about as much."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of a micro-batch's sequences in a tensor.

    Args:
        packed: all in one row, one after another without padding, their attention kept apart by `Batch.bounds`
            (see `llamafarm_ray.training.compute.attention`); otherwise a row each, padded on the right.
        pad_id: the token that fills up.
        shares_prefix: compute the tokens with which all sequences of a packed micro-batch begin once, such as a
            system prompt, and let every sequence attend to them. Without dropout losses and gradients are the same.
    """

    packed: bool
    pad_id: int
    shares_prefix: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch of S sequences in T tokens: tensors of shape (S, longest), or (1, T) where it is packed.

    Args:
        input_ids: int64, tokens.
        labels: int64, tokens to train, ``IGNORED`` elsewhere.
        attention_mask: int64, 1 for tokens and 0 for padding; None where packed.
        position_ids: int64, the place of each token in its sequence.
        bounds: int32 of shape (S + 1,): where each sequence begins in a packed row, and where the last one ends; None
            where padded. With a shared prefix, of shape (S + 2,): its end comes second, and each sequence's own tokens
            follow.
        sequences_per_row: number of sequences of each dataset row, in order.
        tags: each dataset row's `Row.tag`.
        num_tokens: tokens without padding.
        longest: tokens of the longest sequence.
        num_shared: tokens of the prefix that all sequences share, which come first in the row; 0 without one.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor
    bounds: torch.Tensor | None
    sequences_per_row: tuple[int, ...]
    tags: tuple[int, ...]
    num_tokens: int
    longest: int
    num_shared: int = 0

    @property
    def num_rows(self) -> int:
        """Dataset rows; 0 for the batch of a worker that has none left."""
        return len(self.sequences_per_row)

    @property
    def num_sequences(self) -> int:
        """Sequences of all rows, at least one: an empty batch has a token that is not trained."""
        return max(1, sum(self.sequences_per_row))

    @property
    def num_trained(self) -> int:
        """Tokens that have a label. The first token of a sequence has nothing before it and never has one."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        if device.type == "cpu":
            return self
        moved = {
            name: value.to(device, non_blocking=True)
            for name in ("input_ids", "labels", "attention_mask", "position_ids", "bounds")
            if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True, slots=True)
class Window:
    """Work of one worker in one optimizer step.

    Args:
        epoch: counted from 0.
        batches: its micro-batches, as many as the other workers'.
    """

    epoch: int
    batches: list[Batch]


def windows(
    plan: BatchPlan,
    read_epoch: Callable[[int, int], Iterator[Row]],
    *,
    rank: int,
    num_workers: int,
    first_step: int,
    num_steps: int,
    layout: Layout,
) -> Iterator[Window]:
    """A worker's windows of steps ``first_step`` to ``num_steps``.

    Args:
        read_epoch: given an epoch and a number of rows to pass over, the other rows of all workers in their order.
        num_workers: of how many.
        first_step: steps that are done already.
        num_steps: steps of the whole run.
    """
    step = first_step
    while step < num_steps:
        epoch, skipped = divmod(step, plan.num_windows)
        rows = read_epoch(epoch, skipped * plan.window_rows)
        for window in range(skipped, min(plan.num_windows, skipped + num_steps - step)):
            dealt = _share(_deal(list(islice(rows, plan.rows_of(window)))), rank, num_workers)
            size = plan.batch_size
            batches = [
                collate(dealt[index * size : (index + 1) * size], layout)
                for index in range(plan.num_batches(window, num_workers))
            ]
            yield Window(epoch, batches)
            step += 1


def _share(dealt: list[Row], rank: int, num_workers: int) -> list[Row]:
    """A worker's rows. Were each round dealt from the first worker on, it would get the longer row every time."""
    rounds = range(0, len(dealt), num_workers)
    places = (start + (rank if index % 2 == 0 else num_workers - 1 - rank) for index, start in enumerate(rounds))
    return [dealt[place] for place in places if place < len(dealt)]


def _deal(rows: list[Row]) -> list[Row]:
    # Rows of like length share a micro-batch, which saves padding. The step is the same: its gradient is a sum.
    return sorted(rows, key=lambda row: len(row.input_ids), reverse=True)


def collate(rows: Sequence[Row], layout: Layout) -> Batch:
    """Put rows together; no rows become one token that is not trained."""
    sequences = [part for row in rows for part in _parts(row)] or [(np.array([layout.pad_id]), np.array([IGNORED]))]
    lengths = [len(ids) for ids, _ in sequences]
    num_tokens, longest = sum(lengths), max(lengths)
    bounds = attention_mask = None
    num_shared = _num_shared(sequences) if layout.packed and layout.shares_prefix else 0
    if layout.packed:
        parts = [(ids[num_shared:], targets[num_shared:]) for ids, targets in sequences]
        if num_shared:
            ids, targets = sequences[0]
            parts.insert(0, (ids[:num_shared], targets[:num_shared]))
        input_ids = torch.from_numpy(np.concatenate([ids for ids, _ in parts]).astype(np.int64))[None]
        labels = torch.from_numpy(np.concatenate([targets for _, targets in parts]).astype(np.int64))[None]
        places = [torch.arange(num_shared), *(torch.arange(num_shared, length) for length in lengths)]
        position_ids = torch.cat(places)[None]
        bounds = torch.tensor([0, *np.cumsum([len(ids) for ids, _ in parts])], dtype=torch.int32)
    else:
        shape = (len(sequences), longest)
        input_ids, labels = torch.full(shape, layout.pad_id), torch.full(shape, IGNORED)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        position_ids = torch.arange(longest)[None].expand(shape)
        for index, (ids, targets) in enumerate(sequences):
            input_ids[index, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
            labels[index, : len(ids)] = torch.from_numpy(targets.astype(np.int64))
            attention_mask[index, : len(ids)] = 1
    return Batch(
        input_ids,
        labels,
        attention_mask,
        position_ids,
        bounds,
        sequences_per_row=tuple(len(row.lengths) for row in rows),
        tags=tuple(row.tag for row in rows),
        num_tokens=num_tokens if rows else 0,
        longest=longest,
        num_shared=num_shared,
    )


def _num_shared(sequences: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
    """Return the number of tokens that begin all sequences and are trained in none; 0 where little would be saved.

    Each sequence keeps a token before its first trained one, as the logits there are about that.
    """
    shared, _ = sequences[0]
    for ids, labels in sequences:
        trained = np.flatnonzero(labels != IGNORED)
        most = min(len(shared), len(ids) - 1, int(trained[0]) - 1 if len(trained) else len(ids))
        differs = np.flatnonzero(ids[:most] != shared[:most]) if most > 0 else np.array([0])
        shared = shared[: int(differs[0]) if len(differs) else most]
    return len(shared) if len(shared) * (len(sequences) - 1) >= _MIN_SAVED else 0


def _parts(row: Row) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    ids, labels = np.asarray(row.input_ids), np.asarray(row.labels)
    start = 0
    for length in row.lengths:
        yield ids[start : start + length], labels[start : start + length]
        start += length
