"""Epochs and batch size that the configuration leaves open."""

import pytest

from llamafarm_ray.config import Training
from llamafarm_ray.training.plan.epochs import choose_batch_size, choose_epochs, with_epochs_and_batch_size


@pytest.mark.parametrize(("passes", "epochs"), [(1, 3.0), (2, 2.0), (3, 1.0), (4, 1.0), (100, 1.0)])
def test_a_dataset_of_several_passes_is_seen_less_often(passes, epochs):
    assert choose_epochs("auto", passes=passes) == epochs
    assert choose_epochs(0.5, passes=passes) == 0.5


def test_a_run_of_few_examples_has_small_steps():
    assert choose_batch_size("auto", num_examples=1599) == 2
    assert choose_batch_size("auto", num_examples=1600) == 4
    assert choose_batch_size(16, num_examples=10) == 16


def test_the_batch_size_goes_by_the_rows_of_all_epochs():
    few = with_epochs_and_batch_size(Training(), objective="sft", num_rows=600, passes=4)
    many = with_epochs_and_batch_size(Training(), objective="sft", num_rows=600, passes=1)
    assert (few.epochs, few.batch_size) == (1.0, 2)
    assert (many.epochs, many.batch_size) == (3.0, 4)
    training = Training(epochs=2, batch_size=8)
    given = with_epochs_and_batch_size(training, objective="sft", num_rows=10, passes=4)
    assert (given.epochs, given.batch_size) == (2, 8)


@pytest.mark.parametrize("objective", ["dpo", "kto", "contrastive"])
def test_objectives_that_compare_rows_keep_their_batches(objective):
    assert with_epochs_and_batch_size(Training(), objective=objective, num_rows=10, passes=1).batch_size == 4


@pytest.mark.parametrize(("max_steps", "batch_size"), [(100, 2), (2000, 4)])
def test_a_number_of_steps_decides_instead_of_rows(max_steps, batch_size):
    training = Training(max_steps=max_steps)
    for num_rows in (300, 100_000):
        decided = with_epochs_and_batch_size(training, objective="sft", num_rows=num_rows, passes=1)
        assert decided.batch_size == batch_size
