"""What several replicas saw adds up, whichever dies, starts anew or is late; and each rating is counted once."""

import asyncio
import datetime as dt
import json

import pytest

from llamafarm_ray.errors import StorageError
from llamafarm_ray.registry import Guards
from llamafarm_ray.registry.rollouts import AbPlan, CanaryPlan, RolloutStatus, Step
from llamafarm_ray.registry.state import RolloutChange, RolloutRecord
from llamafarm_ray.serving.rollouts.fleet import FleetObservations
from llamafarm_ray.serving.rollouts.ratings import StoredRatings
from llamafarm_ray.serving.routing.traffic_split import Variant
from llamafarm_ray.serving.telemetry.outcome import End
from llamafarm_ray.serving.telemetry.rollout_observations import Moments, Sample
from llamafarm_ray.serving.telemetry.rollout_windows import RolloutWindows
from llamafarm_ray.storage import Location

START_S = 1_790_000_000
BEGUN = dt.datetime.fromtimestamp(START_S + 0.25, dt.UTC)
CANARY = CanaryPlan(steps=(Step(percent=5, dwell_s=60),), guards=Guards(max_error_ratio=2))
RATED = CanaryPlan(steps=(Step(percent=5, dwell_s=60),), guards=Guards(min_feedback=0.5))


def record(plan=CANARY, number=1):
    change = RolloutChange(RolloutStatus.RUNNING, 0, BEGUN, "ann", "")
    return RolloutRecord("bot", "production", number, "1.0.0", "1.1.0", plan, BEGUN, (change,))


class Replicas:
    """Real windows of replicas that a test starts and kills, with a clock of its own."""

    def __init__(self, num=2):
        self.now = START_S + 0.25
        self.running = [self.start() for _ in range(num)]
        self.late = set()

    def start(self):
        return RolloutWindows(lambda: {record().id}, lambda: self.now)

    async def reports(self, rollout, after):
        return [windows.report(rollout, after) for n, windows in enumerate(self.running) if n not in self.late]

    def see(self, replica, *, good=0, bad=0, variant=Variant.CANDIDATE):
        for end, num in ((End.ANSWERED, good), (End.FAILED, bad)):
            for _ in range(num):
                self.running[replica].add(record().id, variant, end, 0.1)


class Silence:
    def new(self, _rollout, **_options):
        raise AssertionError("nobody asked for ratings")


class Reader:
    """Reads on as the controller does."""

    def __init__(self, replicas, ratings=None, rollout=None):
        self.source = FleetObservations(replicas, ratings or Silence())
        self.rollout = rollout or record()
        self.after = BEGUN
        self.seen = []

    def read(self):
        found = asyncio.run(self.source.windows(self.rollout, self.after))
        assert all(window.start >= self.after for window in found)
        self.seen += found
        self.after = found[-1].end if found else self.after
        return found

    def total(self):
        return sum((window.candidate for window in self.seen), Sample())


def test_the_same_second_of_all_replicas_is_one_window():
    replicas = Replicas(3)
    for replica in range(3):
        replicas.see(replica, good=2, bad=1)
        replicas.see(replica, good=5, variant=Variant.BASELINE)
    replicas.now += 1
    (window,) = Reader(replicas).read()
    assert (window.start, window.end) == (BEGUN, dt.datetime.fromtimestamp(START_S + 1, dt.UTC))
    assert (window.candidate.requests, window.candidate.errors, window.baseline.requests) == (9, 3, 15)


def test_each_request_is_seen_once_however_often_one_looks():
    replicas, number = Replicas(2), 0
    reader = Reader(replicas)
    for turn in range(300):  # through the joining of windows that were handed over
        replicas.see(turn % 2, good=1)
        number += 1
        replicas.now += 0.7
        reader.read()
        reader.read()
    replicas.now += 1
    reader.read()
    assert reader.total().requests == number


def test_who_begins_anew_gets_all_that_the_living_replicas_saw():
    replicas = Replicas(2)
    reader = Reader(replicas)
    for _ in range(200):
        replicas.see(0, good=1)
        replicas.see(1, bad=1)
        replicas.now += 1
        reader.read()
    anew = Reader(replicas)
    anew.read()
    assert anew.total() == reader.total()
    assert (anew.total().requests, anew.total().errors) == (400, 200)
    assert len(anew.seen) > 50  # in windows, so that guards that learn from earlier ones have earlier ones


def test_a_replica_that_dies_takes_back_nothing_and_its_heir_counts_from_nothing():
    replicas = Replicas(2)
    reader = Reader(replicas)
    replicas.see(0, good=10)
    replicas.see(1, good=1)
    replicas.now += 1
    reader.read()
    replicas.see(0, good=5)  # nobody will ever hear of these
    replicas.running[0] = replicas.start()
    assert reader.read() == []
    replicas.see(0, good=2)
    replicas.now += 1
    reader.read()
    assert reader.total().requests == 13
    anew = Reader(replicas)
    anew.read()
    assert anew.total().requests == 3  # what the dead one had handed over is with who had it


def test_a_replica_that_is_late_holds_up_nobody_and_nothing_is_counted_twice():
    replicas = Replicas(2)
    reader = Reader(replicas)
    replicas.late = {1}
    for _ in range(5):
        replicas.see(0, good=1)
        replicas.see(1, good=1)
        replicas.now += 1
        reader.read()
    assert reader.total().requests == 5
    replicas.late = set()
    for _ in range(5):
        replicas.see(1, good=1)
        replicas.now += 1
        reader.read()
    assert reader.total().requests == 10  # and not 15: what was missed while others answered is left out


def test_a_replica_whose_clock_is_behind_is_waited_for():
    replicas = Replicas(2)
    replicas.running[1]._clock = lambda: replicas.now - 3
    reader = Reader(replicas)
    for _ in range(10):
        replicas.see(0, good=1)
        replicas.see(1, good=1)
        replicas.now += 1
        reader.read()
    replicas.now += 4
    reader.read()
    assert reader.total().requests == 20 - 3  # before the rollout began, by that clock


def test_without_a_replica_there_is_nothing_to_see():
    assert Reader(Replicas(0), rollout=record(RATED)).read() == []


class Feedback:
    """Files as the replicas write them."""

    def __init__(self, tmp_path):
        self.home = Location(tmp_path)
        self.number = 0

    def say(self, version, rating, time=BEGUN, **more):
        self.number += 1
        said = {"version": version, "time": (time + dt.timedelta(seconds=1)).isoformat(timespec="milliseconds")}
        if isinstance(rating, str):
            said["thumb"] = rating
        elif rating is not None:
            said["rating"] = rating
        line = json.dumps({**said, **more}) + "\n"
        self.home.create(f"feedback/{time:%Y/%m/%d}/{time:%H%M%S%f}-{self.number}.jsonl", line.encode())


@pytest.fixture
def feedback(tmp_path):
    return Feedback(tmp_path)


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def stored(feedback, clock=None, now=BEGUN):
    return StoredRatings(feedback.home, clock=clock or Clock(), now=lambda: now)


def test_ratings_of_both_versions_since_the_rollout_began_are_read(feedback):
    feedback.say("bot:1.0.0", 0.5)
    feedback.say("bot:1.1.0", "up")
    feedback.say("bot:1.1.0", "down")
    feedback.say("bot:1.1.0", None, correction="no rating")
    feedback.say("bot:1.2.0", 0.1)
    feedback.say("cat:1.1.0", 0.1)
    feedback.say("bot:1.1.0", 0.1, BEGUN - dt.timedelta(hours=1))
    feedback.home.create(f"feedback/{BEGUN:%Y/%m/%d}/{BEGUN:%H%M%S%f}-broken.jsonl", b'{"version": 7}\nnot JSON\n')
    baseline, candidate = stored(feedback).new(record(), is_anew=True)
    assert (baseline, candidate) == (Moments.of([0.5]), Moments.of([1, 0]))


def test_each_rating_is_counted_once_and_again_for_who_begins_anew(feedback):
    clock = Clock()
    ratings = stored(feedback, clock)
    feedback.say("bot:1.1.0", 0.25)
    assert ratings.new(record(), is_anew=True)[1].count == 1
    feedback.say("bot:1.1.0", 0.75)
    assert ratings.new(record(), is_anew=False)[1].count == 0  # it looked just now
    clock.now_s += 2
    assert ratings.new(record(), is_anew=False)[1] == Moments.of([0.75])
    clock.now_s += 2
    assert ratings.new(record(), is_anew=False)[1].count == 0
    clock.now_s += 2
    assert ratings.new(record(), is_anew=True)[1].count == 2
    clock.now_s += 2
    assert ratings.new(record(number=2), is_anew=False)[1].count == 2


def test_ratings_of_days_are_found_and_old_days_are_not_looked_at_again(feedback):
    now = BEGUN + dt.timedelta(days=5)
    for day in range(6):
        feedback.say("bot:1.1.0", 1, BEGUN + dt.timedelta(days=day))
    clock = Clock()
    ratings = stored(feedback, clock, now)
    assert ratings.new(record(), is_anew=True)[1].count == 6
    looked = []
    names = feedback.home.names
    feedback.home.names = lambda folder: looked.append(folder) or names(folder)
    clock.now_s += 2
    feedback.say("bot:1.1.0", 1, now - dt.timedelta(days=1))
    assert ratings.new(record(), is_anew=False)[1].count == 1
    assert len(looked) == 2


def test_looking_takes_a_twentieth_of_the_time_at_most(feedback):
    clock = Clock()
    names = feedback.home.names

    def slow(folder):
        clock.now_s += 1
        return names(folder)

    feedback.home.names = slow
    ratings = stored(feedback, clock)
    ratings.new(record(), is_anew=True)
    feedback.say("bot:1.1.0", 1)
    clock.now_s = 20
    assert ratings.new(record(), is_anew=False)[1].count == 0
    clock.now_s = 21
    assert ratings.new(record(), is_anew=False)[1].count == 1


@pytest.mark.parametrize("plan", [RATED, AbPlan(metric="feedback")])
def test_ratings_come_with_the_windows_where_they_matter(feedback, plan):
    replicas, clock = Replicas(), Clock()
    reader = Reader(replicas, stored(feedback, clock), record(plan))
    feedback.say("bot:1.1.0", 0.5)
    replicas.now += 2
    reader.read()  # before any request was answered
    for _ in range(5):
        clock.now_s += 2
        feedback.say("bot:1.1.0", 0.5)
        replicas.see(0, good=1)
        replicas.now += 2
        reader.read()
    assert (reader.total().ratings.count, reader.total().requests) == (6, 5)


def test_feedback_that_can_not_be_read_does_not_hold_up_the_guards(caplog):
    class Down:
        def new(self, _rollout, **_options):
            raise StorageError("the bucket does not answer.")

    replicas = Replicas()
    replicas.see(0, good=3)
    replicas.now += 1
    reader = Reader(replicas, Down(), record(RATED))
    reader.read()
    assert reader.total().requests == 3
    assert "Feedback for bot@production#1 can't be read: the bucket does not answer." in caplog.text
