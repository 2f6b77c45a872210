"""What a replica saw of a rollout, in windows that are complete when they are handed over."""

import datetime as dt
import itertools
import pickle

import pytest

from llamafarm_ray.serving.routing.traffic_split import Variant
from llamafarm_ray.serving.telemetry.outcome import End
from llamafarm_ray.serving.telemetry.rollout_observations import Sample
from llamafarm_ray.serving.telemetry.rollout_windows import RolloutWindows

START = 1_700_000_000 - 1_700_000_000 % 4096
ROLLOUT = "bot@production#1"
EVER = dt.datetime.fromtimestamp(0, dt.UTC)


class Clock:
    def __init__(self):
        self.now = float(START)

    def __call__(self):
        return self.now


def time(seconds):
    return dt.datetime.fromtimestamp(START + seconds, dt.UTC)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def windows(clock):
    return RolloutWindows(lambda: {ROLLOUT}, clock)


def see(windows, *ends, variant=Variant.CANDIDATE, rollout=ROLLOUT):
    for end in ends:
        windows.add(rollout, variant, end, 0.5)


def test_a_window_is_handed_over_when_its_second_is_over(windows, clock):
    clock.now += 0.2
    see(windows, End.ANSWERED)
    assert windows.report(ROLLOUT, EVER).windows == ()
    clock.now += 0.7
    see(windows, End.FAILED, End.ANSWERED)
    see(windows, End.ANSWERED, variant=Variant.BASELINE)
    see(windows, End.ANSWERED, variant=Variant.SHADOW)
    clock.now += 0.2
    see(windows, End.ANSWERED)
    report = windows.report(ROLLOUT, EVER)
    (window,) = report.windows
    assert (report.until, window.start, window.end) == (time(1), time(0), time(1))
    assert (window.candidate.requests, window.candidate.errors, window.candidate.latencies.count) == (4, 1, 3)
    assert window.candidate.latencies.quantile_s(0.5) == pytest.approx(0.5, rel=0.02)
    assert window.baseline.requests == 1
    assert windows.report(ROLLOUT, window.end).windows == ()
    assert pickle.loads(pickle.dumps(report)) == report  # noqa: S301  (it crosses Ray)


def test_what_the_client_got_wrong_or_gave_up_does_not_count(windows, clock):
    see(windows, End.REFUSED, End.CANCELLED)
    clock.now += 1
    assert windows.report(ROLLOUT, EVER).windows == ()


def test_nothing_is_added_to_what_was_handed_over_though_the_clock_goes_back(windows, clock):
    see(windows, End.ANSWERED)
    clock.now += 1.5
    before = windows.report(ROLLOUT, EVER)
    clock.now -= 1
    see(windows, End.ANSWERED)
    assert windows.report(ROLLOUT, EVER) == before
    clock.now += 3
    assert [window.start for window in windows.report(ROLLOUT, before.until).windows] == [time(1)]


def test_a_day_takes_few_windows_and_loses_no_request(windows, clock):
    hours = 24
    for _ in range(hours * 3600 // 5):
        see(windows, End.ANSWERED)
        clock.now += 5
    report = windows.report(ROLLOUT, EVER)
    assert len(windows._rollouts[ROLLOUT]) == len(report.windows) < 250
    assert sum((window.candidate for window in report.windows), Sample()).requests == hours * 720
    spans = [(window.start, window.end) for window in report.windows]
    assert spans == sorted(spans)
    assert all(ours[1] <= theirs[0] for ours, theirs in itertools.pairwise(spans))
    assert {(end - start).total_seconds() for start, end in spans} == {1, 64, 4096}
    assert all(start.timestamp() % (end - start).total_seconds() == 0 for start, end in spans)
    last_minute = [window for window in report.windows if window.start >= report.until - dt.timedelta(seconds=60)]
    assert {(window.end - window.start).total_seconds() for window in last_minute} == {1}


def test_rollouts_are_told_apart_and_those_that_are_over_forgotten(clock):
    under_way = {ROLLOUT, "bot@staging#1"}
    windows = RolloutWindows(lambda: under_way, clock)
    see(windows, End.ANSWERED)
    see(windows, End.FAILED, rollout="bot@staging#1")
    clock.now += 1
    assert [w.candidate.errors for w in windows.report(ROLLOUT, EVER).windows] == [0]
    under_way.discard(ROLLOUT)
    see(windows, End.ANSWERED, rollout="bot@production#2")  # known to this replica's router before it is to it
    assert set(windows._rollouts) == {"bot@staging#1", "bot@production#2"}
    assert windows.report("never@heard#1", EVER).windows == ()
