import numpy as np
import pyarrow as pa
import pytest

from llamafarm_ray.training.tokens.stream import read_epoch


class Blocks:
    """Rows in blocks, as a Ray Data iterator gives them."""

    def __init__(self, num_rows, block_rows):
        self._num_rows, self._block_rows = num_rows, block_rows

    def iter_batches(self, *, batch_size, **_):
        for start in range(0, self._num_rows, min(batch_size, self._block_rows)):
            rows = range(start, min(self._num_rows, start + min(batch_size, self._block_rows)))
            ids = [[row] * (1 + row % 3) for row in rows]
            lists = pa.list_(pa.int32())
            yield pa.table(
                {
                    "input_ids": pa.array(ids, lists),
                    "labels": pa.array(ids, lists),
                    "lengths": pa.array([[len(one)] for one in ids], lists),
                    "tag": pa.array([row % 2 for row in rows], pa.int32()),
                }
            )


def order(blocks, epoch, skip=0, seed=7, buffer_rows=16):
    return [int(row.input_ids[0]) for row in read_epoch(blocks, epoch, skip, seed=seed, buffer_rows=buffer_rows)]


def test_the_first_epoch_takes_rows_as_they_lie():
    rows = list(read_epoch(Blocks(10, 4), 0, 0, seed=1))
    assert [int(row.input_ids[0]) for row in rows] == list(range(10))
    assert [len(row.input_ids) for row in rows] == [1 + index % 3 for index in range(10)]
    assert [list(row.lengths) for row in rows] == [[1 + index % 3] for index in range(10)]
    assert [row.tag for row in rows] == [index % 2 for index in range(10)]


@pytest.mark.parametrize("epoch", [1, 2, 5])
def test_later_epochs_have_every_row_once_in_another_order(epoch):
    seen = order(Blocks(100, 7), epoch)
    assert sorted(seen) == list(range(100))
    assert seen != sorted(seen)
    assert seen != order(Blocks(100, 7), epoch + 1)
    assert seen != order(Blocks(100, 7), epoch, seed=8)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_the_order_does_not_depend_on_blocks(epoch):
    assert order(Blocks(100, 7), epoch) == order(Blocks(100, 1000), epoch)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_passing_over_rows_leaves_the_rest_as_it_was(epoch):
    whole = order(Blocks(50, 7), epoch)
    for skip in (0, 1, 8, 15, 16, 17, 49, 50):
        assert order(Blocks(50, 7), epoch, skip) == whole[skip:]


def test_rows_travel_between_buffers_from_epoch_to_epoch():
    together = [{row // 16 for row in order(Blocks(64, 64), epoch)[:16]} for epoch in (1, 2)]
    assert any(len(parts) > 1 for parts in together)


def test_rows_are_views_and_not_copies():
    row = next(read_epoch(Blocks(4, 4), 0, 0, seed=1))
    assert isinstance(row.input_ids, np.ndarray)
    assert not row.input_ids.flags.owndata
