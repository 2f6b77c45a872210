import pytest

from llamafarm_ray.training.checkpoints import RunState
from llamafarm_ray.training.worker import _is_patience_over


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([3.0], 1, False),
        ([3.0, 2.0], 1, False),
        ([3.0, 3.0], 1, True),
        ([3.0, 2.0, 2.5], 2, False),
        ([3.0, 2.0, 2.5, 2.1], 2, True),
        ([3.0, 2.0, 2.5, 1.9], 2, False),
        ([1.0, 2.0, 3.0], None, False),
    ],
)
def test_a_run_ends_when_it_got_no_better_for_so_long(losses, patience, expected):
    state = RunState(validation=[(10 * index, loss) for index, loss in enumerate(losses, start=1)])
    assert _is_patience_over(state, patience) is expected
