"""How many trials run at once, and when none begins any more."""

import pytest

from llamafarm_ray.tuning.budget import Budget
from llamafarm_ray.tuning.packing import Node, TrialNeeds, num_concurrent

LAPTOP = [Node(4)]


@pytest.mark.parametrize(
    ("nodes", "needs", "most", "expected"),
    [
        (LAPTOP, TrialNeeds(1, 1), None, 3),  # a CPU stays for data
        (LAPTOP, TrialNeeds(1, 1), 2, 2),
        (LAPTOP, TrialNeeds(2, 1), None, 1),
        (LAPTOP, TrialNeeds(1, 0.5), None, 6),
        (LAPTOP, TrialNeeds(8, 0.5), None, 1),  # no more than a training without a sweep may take
        ([Node(16, 8)], TrialNeeds(1, 1, 1), None, 8),
        ([Node(16, 8)], TrialNeeds(4, 1, 1), None, 2),
        ([Node(16, 8)], TrialNeeds(3, 1, 1), None, 2),
        ([Node(2, 1), Node(2, 1)], TrialNeeds(2, 1, 1), None, 1),  # workers of one trial on two machines
        ([Node(1.5)] * 4 + [Node(1)], TrialNeeds(1, 1), None, 4),  # halves of CPUs make no whole one
        ([Node(64), Node(4, 4)], TrialNeeds(1, 1, 1), None, 4),
    ],
)
def test_trials_are_packed_so_that_none_waits_for_anothers_workers(nodes, needs, most, expected):
    assert num_concurrent(nodes, needs, most=most) == expected


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_trial_begins_only_if_one_of_the_usual_length_would_end_in_time():
    clock = Clock()
    budget = Budget(60, clock=clock)
    assert budget.has_room([])
    clock.now += 30
    assert budget.left_s == 30
    assert budget.has_room([20, 25, 90])
    assert not budget.has_room([29])
    clock.now += 31
    assert budget.is_over
    assert not budget.has_room([])


def test_earlier_sessions_count():
    clock = Clock()
    assert Budget(60, 45, clock).left_s == 15
    assert Budget(60, 75, clock).is_over
    assert Budget(None, 1e9, clock).left_s is None
    assert not Budget(None, 1e9, clock).is_over
