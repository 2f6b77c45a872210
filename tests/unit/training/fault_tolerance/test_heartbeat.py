"""A worker's signs of life: what they say, and that a process ends when told."""

import queue

import pytest
from patience import patience

from llamafarm_ray.training.fault_tolerance import heartbeat
from llamafarm_ray.training.fault_tolerance.heartbeat import Heartbeat


class Channel:
    """Takes beats without Ray; the heartbeat thread runs as fast as they are taken."""

    def __init__(self):
        self.beats = queue.Queue()
        self.order = "go on"
        self.beat = self

    def remote(self, attempt, beat):
        self.beats.put((attempt, beat))
        return self

    def latest(self):
        """A sign that was sent after this call."""
        while not self.beats.empty():
            self.beats.get()
        self.beats.get(timeout=patience(10))
        return self.beats.get(timeout=patience(10))[1]


@pytest.fixture
def channel():
    return Channel()


@pytest.fixture
def clock(monkeypatch):
    times = [100.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: times[0])
    return times


@pytest.fixture
def ended():
    return queue.Queue()


@pytest.fixture
def beating(channel, monkeypatch, ended):
    import threading

    class Exit(BaseException):
        pass

    def leave(status):
        ended.put(status)
        raise Exit

    monkeypatch.setattr(heartbeat, "_INTERVAL_S", 0.001)
    monkeypatch.setattr(heartbeat.ray, "get", lambda answer, timeout: answer.order)  # noqa: ARG005
    monkeypatch.setattr(heartbeat.os, "_exit", leave)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    made = Heartbeat(channel, attempt=3, rank=1)
    yield made
    made.close()
    made._thread.join(timeout=patience(10))


def test_a_worker_that_loads_may_take_long(clock, channel, beating):
    clock[0] += 20
    beat = channel.latest()
    assert (beat.rank, beat.doing, beat.step, beat.quiet_s, beat.usual_s) == (1, "loading", 0, 20.0, None)
    with beating.slow("reading a checkpoint"):
        clock[0] += 5
        beat = channel.latest()
        assert (beat.doing, beat.quiet_s, beat.usual_s) == ("reading a checkpoint", 5.0, None)


def steps(beating, clock, *seconds):
    for taken in seconds:
        clock[0] += taken
        beating.moved("training", beating._step + 1)


def test_the_first_step_says_nothing_of_the_others_and_the_median_does(clock, channel, beating):
    steps(beating, clock, 60.0, 1.0, 2.0)
    assert channel.latest().usual_s is None
    steps(beating, clock, 9.0)
    clock[0] += 7
    beat = channel.latest()
    assert (beat.doing, beat.step, beat.quiet_s, beat.usual_s) == ("training", 4, 7.0, 2.0)


def test_the_longest_step_is_told_and_loading_is_no_step(clock, channel, beating):
    clock[0] += 90
    assert (channel.latest().is_stepping, channel.latest().longest_s) == (False, 0.0)
    beating.moved("training")
    steps(beating, clock, 7.0, 1.0)
    assert (channel.latest().is_stepping, channel.latest().longest_s) == (True, 7.0)


def test_a_step_after_a_checkpoint_is_a_step_as_any_other(clock, channel, beating):
    """Or the run could stand still there for a quarter of an hour."""
    steps(beating, clock, 60.0, 1.0, 1.0, 1.0)
    with beating.slow("writing a checkpoint"):
        clock[0] += 100
        assert channel.latest().usual_s is None
    beat = channel.latest()
    assert (beat.doing, beat.quiet_s, beat.usual_s) == ("training", 0.0, 1.0)
    steps(beating, clock, 1.0)
    assert channel.latest().usual_s == 1.0


def test_validating_counts_batches_as_signs_and_not_as_steps(clock, channel, beating):
    steps(beating, clock, 60.0, 1.0, 1.0, 1.0)
    clock[0] += 50
    beating.moved("validating")
    beat = channel.latest()
    assert (beat.doing, beat.step, beat.quiet_s, beat.usual_s) == ("validating", 4, 0.0, 1.0)


def test_the_process_ends_when_the_channel_says_so(channel, beating, ended):
    assert channel.latest()
    channel.order = "end"
    assert ended.get(timeout=patience(10)) == 70
    beating._thread.join(timeout=patience(10))
    assert not beating._thread.is_alive()


def test_a_closed_heartbeat_sends_no_more(channel, beating):
    beating.close()
    beating._thread.join(timeout=patience(10))
    assert not beating._thread.is_alive()


def test_a_worker_that_shall_stop_hears_of_it_and_lives_on(channel, beating, ended):
    assert not beating.stop_asked
    channel.order = "stop"
    channel.latest()
    assert beating.stop_asked
    assert ended.empty()
