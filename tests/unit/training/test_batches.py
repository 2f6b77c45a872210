import numpy as np
import pytest
import torch

from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.batches import Layout, collate, windows
from llamafarm_ray.training.rows import Row

PADDED, PACKED = Layout(packed=False, pad_id=9), Layout(packed=True, pad_id=9)


def row(ids, labels=None, lengths=None, tag=0):
    labels = ids if labels is None else labels
    return Row(np.array(ids), np.array(labels), np.array(lengths or [len(ids)]), tag)


ROWS = [row([index] * (3 + 7 * index % 5)) for index in range(1, 12)]


def cut(rows, plan, *, rank=0, num_workers=1, first_step=0, num_steps=None, layout=PADDED):
    return list(
        windows(
            plan,
            lambda _, skip: iter(rows[skip:]),
            rank=rank,
            num_workers=num_workers,
            first_step=first_step,
            num_steps=num_steps or plan.num_windows,
            layout=layout,
        )
    )


def rows_of(window):
    return sorted(int(line[0]) for batch in window.batches if batch.num_rows for line in batch.input_ids)


def test_padding_is_on_the_right_masked_and_not_trained():
    batch = collate([row([5, 6, 7], [-100, 6, 7]), row([8])], PADDED)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert (batch.num_tokens, batch.num_trained, batch.longest) == (4, 3, 3)
    assert batch.bounds is None


def test_a_packed_batch_is_one_row_without_padding_that_says_where_sequences_begin():
    batch = collate([row([5, 6, 7], [-100, 6, 7]), row([8, 4, 4], [8, -100, 4], lengths=[1, 2], tag=1)], PACKED)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 4, 4]]
    assert batch.labels.tolist() == [[-100, 6, 7, 8, -100, 4]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch.bounds.tolist() == [0, 3, 4, 6]
    assert batch.attention_mask is None
    assert (batch.sequences_per_row, batch.tags, batch.num_rows, batch.num_sequences) == ((1, 2), (0, 1), 2, 3)


def test_a_row_of_several_sequences_takes_a_line_for_each():
    batch = collate([row([5, 6, 7, 8], lengths=[1, 3])], PADDED)
    assert batch.input_ids.tolist() == [[5, 9, 9], [6, 7, 8]]
    assert batch.sequences_per_row == (2,)


def test_each_row_is_in_exactly_one_window_of_an_epoch():
    seen = [rows_of(window) for window in cut(ROWS, BatchPlan(11, batch_size=2, window_rows=4))]
    assert seen == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 9, 11])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_a_window_is_the_same_rows_on_any_number_of_workers_which_run_as_many_micro_batches(num_rows, num_workers):
    plan = BatchPlan(num_rows, batch_size=2, window_rows=4)
    of_one = cut(ROWS[:num_rows], plan)
    of_each = [cut(ROWS[:num_rows], plan, rank=rank, num_workers=num_workers) for rank in range(num_workers)]
    for step, window in enumerate(of_one):
        assert sorted(row for worker in of_each for row in rows_of(worker[step])) == rows_of(window)
        assert {len(worker[step].batches) for worker in of_each} == {plan.num_batches(step, num_workers)}
        assert all(len(batch.sequences_per_row) <= 2 for worker in of_each for batch in worker[step].batches)


def test_workers_get_about_as_many_tokens():
    plan = BatchPlan(10, batch_size=5, window_rows=10)
    tokens = [cut(ROWS[:10], plan, rank=rank, num_workers=2)[0].batches[0].num_tokens for rank in range(2)]
    assert abs(tokens[0] - tokens[1]) <= 4


def test_no_worker_gets_the_longer_row_every_time():
    rows = [Row(np.arange(length), np.arange(length), np.array([length]), 0) for length in (8, 7, 6, 5, 4, 3, 2, 1)]
    plan = BatchPlan(8, batch_size=4, window_rows=8)
    tokens = [cut(rows, plan, rank=rank, num_workers=2)[0].batches[0].num_tokens for rank in range(2)]
    assert tokens == [18, 18]


def test_going_on_from_a_step_gives_the_windows_that_were_left():
    plan = BatchPlan(11, batch_size=2, window_rows=4)
    whole = cut(ROWS, plan, num_steps=8)
    rest = cut(ROWS, plan, first_step=4, num_steps=8)
    assert [(window.epoch, rows_of(window)) for window in rest] == [
        (window.epoch, rows_of(window)) for window in whole[4:]
    ]


def test_rows_of_like_length_share_a_micro_batch():
    (window,) = cut(ROWS[:4], BatchPlan(4, batch_size=2, window_rows=4))
    padding = sum(int((batch.attention_mask == 0).sum()) for batch in window.batches)
    assert padding < int((collate(ROWS[:4], PADDED).attention_mask == 0).sum())


@pytest.mark.parametrize("layout", [PADDED, PACKED], ids=["padded", "packed"])
def test_an_empty_batch_trains_nothing(layout):
    batch = collate([], layout)
    assert (batch.num_tokens, batch.num_trained, batch.num_rows) == (0, 0, 0)
    assert torch.all(batch.labels == -100)
