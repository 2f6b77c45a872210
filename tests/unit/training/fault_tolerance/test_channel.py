"""The mailbox between driver and workers: who stands still, how often it is tried again, what ends a run."""

import dataclasses
from pathlib import Path

import pytest

from llamafarm_ray.errors import StorageError, TrainingError
from llamafarm_ray.training.fault_tolerance import channel as mailbox
from llamafarm_ray.training.fault_tolerance.channel import Beat, ProgressChannel, Stall
from llamafarm_ray.training.plan import resources


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def beat(rank=0, **options):
    given = {"where": f"process {rank} on here", "doing": "training", "step": 5, "quiet_s": 0.0, "usual_s": 0.1}
    return Beat(rank, **{**given, **options})


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def channel(clock):
    return ProgressChannel(clock)


def notes(channel):
    return channel.take()[1]


def test_the_time_of_workers_is_counted_while_they_run(channel, clock):
    def seconds():
        return channel.take()[2]

    clock.now += 60  # they wait for room in the cluster
    assert seconds() == 0
    channel.begin(2)
    clock.now += 10
    assert seconds() == 20
    clock.now += 5
    channel.lost()
    clock.now += 100
    channel.begin(1)
    clock.now += 3
    assert seconds() == 13
    assert seconds() == 0


def test_workers_that_get_on_are_no_problem():
    stall = Stall(2, 0.0)
    for now in range(0, 300, 2):
        stall.note(beat(0), now)
        stall.note(beat(1), now)
        assert stall.problem(now + 1.0) == ""


def test_a_worker_that_falls_silent_is_named_after_half_a_minute():
    stall = Stall(2, 0.0)
    stall.note(beat(1), 2.0)
    for now in range(2, 34, 2):
        stall.note(beat(0), now)
    assert stall.problem(31.9) == ""
    assert stall.problem(32.1) == "Worker 1 (process 1 on here) has given no sign of life for 30 s."


def test_where_training_stands_still_the_worker_that_is_silent_is_named_and_not_who_waits_for_it():
    stall = Stall(2, 0.0)
    stall.note(beat(1), 2.0)
    stall.note(beat(0, quiet_s=29.5), 31.0)
    assert stall.problem(31.4) == ""
    assert stall.problem(31.6) == "Worker 1 (process 1 on here) has given no sign of life for 30 s."


def test_a_worker_that_was_never_heard_is_named_too():
    stall = Stall(3, 100.0)
    stall.note(beat(0), 219.0)
    stall.note(beat(2), 219.0)
    assert stall.problem(219.0) == "", "imports take their time"
    assert stall.problem(221.0) == "Worker 1 has given no sign of life since it started 121 s ago."


@pytest.mark.parametrize(("usual_s", "limit_s"), [(0.05, 30.0), (1.0, 30.0), (3.0, 60.0), (None, 900.0)], ids=str)
def test_standing_still_is_measured_by_what_a_step_takes(usual_s, limit_s):
    stall = Stall()
    stall.note(beat(quiet_s=limit_s - 2, usual_s=usual_s), 0.0)
    assert stall.problem(1.0) == ""
    assert "Training has stood still" in stall.problem(3.0)


@pytest.mark.parametrize(("earlier_s", "limit_s"), [(0.2, 30.0), (40.0, 80.0), (1000.0, 900.0)], ids=str)
def test_the_first_steps_of_another_start_are_measured_by_the_longest_before_it(channel, clock, earlier_s, limit_s):
    channel.beat(channel.begin(1), beat(longest_s=earlier_s))
    channel.lost()
    again = channel.begin(1)
    assert channel.beat(again, beat(quiet_s=limit_s - 1, usual_s=None)) == "go on"
    clock.now += 2
    assert channel.beat(again, beat(quiet_s=limit_s + 1, usual_s=None)) == "end"


def test_loading_takes_its_time_in_another_start_too(channel):
    channel.beat(channel.begin(1), beat(longest_s=0.2))
    channel.lost()
    slow = beat(quiet_s=mailbox._SLOW_S - 1, usual_s=None, is_stepping=False)
    assert channel.beat(channel.begin(1), slow) == "go on"


def test_the_bounds_are_those_that_the_documentation_promises():
    text = (Path(__file__).parents[4] / "docs" / "training-design.md").read_text(encoding="utf-8")
    promise = " ".join(text.partition("**Nothing hangs.**")[2].partition("\n- ")[0].split())
    for words in (
        f"no sign of life for {mailbox._SILENT_S:.0f} s;",
        f"never heard of, {mailbox._UNHEARD_S:.0f} s after the start",
        f"longer than {mailbox._LEAST_STALL_S:.0f} s and than {mailbox._STALL_STEPS} usual ones",
        f"longer than {mailbox._SLOW_S:.0f} s.",
        f"said after {mailbox._START_S:.0f} s;",
        f"free within {resources._INSPECTION_S:.0f} s",
    ):
        assert words in promise


def test_standing_still_says_what_every_worker_does():
    stall = Stall()
    stall.note(beat(0, doing="training", step=7, quiet_s=40.0), 0.0)
    stall.note(beat(1, doing="writing a checkpoint", step=6, quiet_s=40.0, usual_s=None), 0.0)
    problem = stall.problem(1.0)
    assert problem.startswith("Training has stood still for 41 s (a step takes 0.1 s): ")
    assert "worker 0 (process 0 on here) is training, after step 7" in problem
    assert "worker 1 (process 1 on here) is writing a checkpoint, after step 6" in problem


def test_workers_that_stand_still_are_ended_once_and_started_again(channel, clock):
    attempt = channel.begin(2)
    channel.restored(0)
    assert channel.beat(attempt, beat(0)) == channel.beat(attempt, beat(1)) == "go on"
    clock.now += 31
    assert channel.beat(attempt, beat(0)) == "end", "worker 1 is silent, so all end"
    assert channel.beat(attempt, beat(0)) == "end"
    assert [note for note in notes(channel) if "no sign of life" in note] == [
        "Worker 1 (process 1 on here) has given no sign of life for 31 s."
    ]
    assert channel.lost() is None
    again = channel.begin(2)
    channel.restored(4)
    assert notes(channel) == ["The workers were started again; training goes on after step 4."]
    assert channel.beat(again, beat(0)) == "go on"
    assert channel.beat(attempt, beat(1)) == "end", "a straggler of the attempt before still ends"
    assert channel.failure() is None


def test_a_worker_that_comes_too_late_does_not_count_for_the_new_start(channel, clock):
    first = channel.begin(1)
    second = channel.begin(1)
    channel.beat(second, beat())
    channel.beat(first, beat(quiet_s=9000.0))
    clock.now += 1
    channel.look()
    assert notes(channel) == []


def test_the_driver_sees_a_stall_when_no_worker_gives_a_sign(channel, clock):
    channel.beat(channel.begin(1), beat())
    clock.now += 31
    channel.look()
    channel.look()
    assert len(notes(channel)) == 1


def stall_at(channel, clock, step):
    attempt = channel.begin(1)
    channel.restored(step // 2 * 2)
    channel.beat(attempt, beat(step=step))
    clock.now += 31
    channel.look()
    return channel.lost()


def test_a_second_stall_without_progress_fails_the_run_by_name(channel, clock):
    assert stall_at(channel, clock, 7) is None
    error = stall_at(channel, clock, 7)
    assert isinstance(error, TrainingError)
    assert "no sign of life" in error.message
    assert "last checkpoint stays" in error.hint


def test_a_second_stall_further_on_is_tried_again(channel, clock):
    assert stall_at(channel, clock, 7) is None
    assert stall_at(channel, clock, 9) is None
    assert stall_at(channel, clock, 100) is None
    assert stall_at(channel, clock, 99) is not None


def test_workers_lost_four_times_without_progress_fail_the_run_by_name(channel):
    for _ in range(3):
        channel.begin(2)
        channel.restored(6)
        assert channel.lost() is None
    channel.begin(2)
    channel.restored(6)
    error = channel.lost()
    assert isinstance(error, TrainingError)
    assert error.message == "The workers were lost 4 times in a row after step 6."


def test_workers_that_die_before_they_say_anything_are_not_started_for_ever(channel):
    assert [channel.lost() is None for _ in range(4)] == [True, True, True, False]
    assert "before the first checkpoint" in channel.failure().message


def test_losses_with_progress_between_them_may_be_many(channel):
    for step in range(0, 100, 2):
        channel.begin(2)
        channel.restored(step)
        assert channel.lost() is None


def test_the_first_failure_stands_and_ends_the_attempts(channel):
    channel.begin(1)
    channel.fail(StorageError("The disk is full."))
    channel.fail(TrainingError("A worker failed: connection closed"))
    assert channel.lost().message == channel.failure().message == "The disk is full."


def test_workers_that_are_not_started_are_said_to_be_so_once(channel, clock):
    clock.now += 44
    channel.look()
    assert notes(channel) == []
    clock.now += 2
    channel.look()
    channel.look()
    (note,) = notes(channel)
    assert note.startswith("The workers have not started for 45 s")
    channel.begin(1)
    channel.lost()
    clock.now += 46
    channel.look()
    assert len(notes(channel)) == 1


def test_what_stands_still_is_measured_anew_after_a_start(channel, clock):
    channel.beat(channel.begin(1), beat())
    clock.now += 29
    attempt = channel.begin(1)
    clock.now += 29
    channel.look()
    assert channel.beat(attempt, dataclasses.replace(beat(), step=0)) == "go on"
    assert notes(channel) == []
