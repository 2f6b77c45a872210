"""From a worker's rows to its steps: windows of micro-batches, the same number on every worker.

A *window* is what one optimizer step sees on one worker: ``gradient_accumulation_steps`` micro-batches of
``batch_size`` rows, fewer in an epoch's last window. Every worker runs as many micro-batches as the others, or
the collectives inside a step would wait for each other forever: who has a row less runs an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from llamafarm_ray.training.batch_plan import IGNORED, BatchPlan

__all__ = ["IGNORED", "Batch", "Row", "collate", "windows"]

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids and labels of one row, of the same length."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded micro-batch, all of shape (rows, tokens) and int64.

    Args:
        input_ids: tokens, padded on the right.
        attention_mask: 1 for tokens, 0 for padding.
        labels: tokens to train, ``IGNORED`` elsewhere.
        num_tokens: tokens without padding.
        num_trained: tokens that have a label.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    num_tokens: int
    num_trained: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.labels.to(device),
            self.num_tokens,
            self.num_trained,
        )


def windows(
    plan: BatchPlan, read_epoch: Callable[[int], Iterator[Row]], *, first_step: int, num_steps: int, pad_id: int
) -> Iterator[tuple[int, list[Batch]]]:
    """The windows of steps ``first_step`` to ``num_steps``, each with the number of its epoch.

    Args:
        plan: how epochs are cut.
        read_epoch: this worker's rows in that epoch's order.
        first_step: steps that are done already; their rows are read and passed over.
        num_steps: steps of the whole run.
        pad_id: the token that fills up.
    """
    step = first_step
    while step < num_steps:
        epoch, skipped = divmod(step, plan.num_windows)
        rows = read_epoch(epoch)
        for _ in islice(rows, skipped * plan.window_rows):
            pass
        for window in range(skipped, min(plan.num_windows, skipped + num_steps - step)):
            yield epoch, _cut(list(islice(rows, plan.window_rows)), plan, plan.num_batches(window), pad_id)
            step += 1


def _cut(rows: list[Row], plan: BatchPlan, num_batches: int, pad_id: int) -> list[Batch]:
    # Rows of like length share a micro-batch, which saves padding. The step is the same: its gradient is a sum.
    rows.sort(key=lambda row: len(row[0]), reverse=True)
    size = plan.batch_size
    return [collate(rows[index * size : (index + 1) * size], pad_id) for index in range(num_batches)]


def collate(rows: Sequence[Row], pad_id: int) -> Batch:
    """Pad rows to the longest of them; no rows become one token that is not trained."""
    if not rows:
        rows = [((pad_id,), (IGNORED,))]
        empty = True
    else:
        empty = False
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.int64)
    labels = torch.full((len(rows), width), IGNORED)
    for index, (ids, targets) in enumerate(rows):
        input_ids[index, : len(ids)] = torch.as_tensor(ids, dtype=torch.int64)
        attention_mask[index, : len(ids)] = 1
        labels[index, : len(ids)] = torch.as_tensor(targets, dtype=torch.int64)
    return Batch(
        input_ids,
        attention_mask,
        labels,
        num_tokens=0 if empty else int(attention_mask.sum()),
        num_trained=int((labels != IGNORED).sum()),
    )
