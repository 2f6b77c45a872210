"""Epochs and batch size that the configuration leaves open."""

import pytest

from llamafarm_ray.config import Training
from llamafarm_ray.training.epochs import choose_batch_size, choose_epochs, with_epochs_and_batch_size


@pytest.mark.parametrize(("passes", "epochs"), [(1, 3.0), (2, 2.0), (3, 1.0), (4, 1.0), (100, 1.0)])
def test_a_dataset_of_several_passes_is_seen_less_often(passes, epochs):
    assert choose_epochs("auto", passes=passes) == epochs
    assert choose_epochs(0.5, passes=passes) == 0.5


def test_a_run_of_few_examples_has_small_steps():
    assert choose_batch_size("auto", num_examples=1599) == 2
    assert choose_batch_size("auto", num_examples=1600) == 4
    assert choose_batch_size(16, num_examples=10) == 16


def test_the_batch_size_goes_by_the_rows_of_all_epochs():
    few = with_epochs_and_batch_size(Training(), num_rows=600, passes=4)
    many = with_epochs_and_batch_size(Training(), num_rows=600, passes=1)
    assert (few.epochs, few.batch_size) == (1.0, 2)
    assert (many.epochs, many.batch_size) == (3.0, 4)
    given = with_epochs_and_batch_size(Training(epochs=2, batch_size=8), num_rows=10, passes=4)
    assert (given.epochs, given.batch_size) == (2, 8)
