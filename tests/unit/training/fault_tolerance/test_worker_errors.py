"""Which errors of a worker say that another one is gone, so that the run is started again."""

import pytest
import torch

from llamafarm_ray.training.fault_tolerance.failures import is_lost_worker


def test_a_process_group_that_was_taken_away_is_anothers_loss():
    """Ray Train does so where it notices a lost worker before its neighbours do."""
    with pytest.raises(ValueError, match="process group") as caught:
        torch.distributed.all_reduce(torch.zeros(1))
    assert is_lost_worker(caught.value)


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4242"), True),
        (RuntimeError("[gloo] Timed out waiting 1800000ms for recv operation to complete"), True),
        (torch.distributed.DistBackendError("NCCL error"), True),
        (ValueError("Target modules {'x'} not found in the base model."), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_other_errors_are_told_apart(error, is_lost):
    assert is_lost_worker(error) is is_lost
