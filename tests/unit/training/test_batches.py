from itertools import pairwise

import pytest
import torch

from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.batches import collate, windows

ROWS = [([index] * (3 + 7 * index % 5), [index] * (3 + 7 * index % 5)) for index in range(1, 12)]


def cut(rows, plan, *, first_step=0, num_steps=None):
    return list(
        windows(plan, lambda _: iter(rows), first_step=first_step, num_steps=num_steps or plan.num_windows, pad_id=0)
    )


def rows_of(batches):
    return sorted(int(row[0]) for batch in batches for row in batch.input_ids if batch.num_tokens)


def test_padding_is_on_the_right_masked_and_not_trained():
    batch = collate([([5, 6, 7], [-100, 6, 7]), ([8], [8])], pad_id=9)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert (batch.num_tokens, batch.num_trained) == (4, 3)


def test_each_row_is_in_exactly_one_window_of_an_epoch():
    seen = [rows_of(batches) for _, batches in cut(ROWS, BatchPlan(11, 1, batch_size=2, accumulation=2))]
    assert seen == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 9, 11])
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_all_workers_run_the_same_number_of_micro_batches(num_rows, num_workers):
    plan = BatchPlan(num_rows, num_workers, batch_size=2, accumulation=2)
    bounds = [index * num_rows // num_workers for index in range(num_workers + 1)]
    shards = [ROWS[start:end] for start, end in pairwise(bounds)]
    counts = [[len(batches) for _, batches in cut(shard, plan)] for shard in shards]
    assert all(count == counts[0] for count in counts)
    assert 0 not in counts[0]
    seen = sorted(row for shard in shards for _, batches in cut(shard, plan) for row in rows_of(batches))
    assert seen == sorted(ids[0] for ids, _ in ROWS[:num_rows])


def test_going_on_from_a_step_gives_the_windows_that_were_left():
    plan = BatchPlan(11, 1, batch_size=2, accumulation=2)
    whole = cut(ROWS, plan, num_steps=8)
    rest = cut(ROWS, plan, first_step=4, num_steps=8)
    assert [(epoch, rows_of(batches)) for epoch, batches in rest] == [
        (epoch, rows_of(batches)) for epoch, batches in whole[4:]
    ]


def test_rows_of_like_length_share_a_micro_batch():
    _, batches = cut(ROWS[:4], BatchPlan(4, 1, batch_size=2, accumulation=2))[0]
    padding = sum(int((batch.attention_mask == 0).sum()) for batch in batches)
    assert padding < int((collate(ROWS[:4], 0).attention_mask == 0).sum())


def test_an_empty_batch_trains_nothing():
    batch = collate([], pad_id=0)
    assert (batch.num_tokens, batch.num_trained) == (0, 0)
    assert torch.all(batch.labels == -100)
