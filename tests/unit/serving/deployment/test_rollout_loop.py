"""The loop that takes rollouts further, over replicas and a clock of the test's own: whoever dies, it ends the same."""

import asyncio
import datetime as dt
import itertools

import pytest
from fake_gateway import ONE, TWO, Engine, Server, adapter, models_state
from model_files import note_digest, store_note

from llamafarm_ray.errors import DeploymentError, UserError
from llamafarm_ray.registry import Guards, RegistryService, RolloutStatus
from llamafarm_ray.registry.commands import Register, StartRollout
from llamafarm_ray.registry.rollouts import CanaryPlan, Step
from llamafarm_ray.serving.rollouts import Move, RolloutController
from llamafarm_ray.serving.rollouts.fleet import FleetObservations
from llamafarm_ray.serving.routing.traffic_split import Variant
from llamafarm_ray.serving.telemetry.outcome import End
from llamafarm_ray.serving.telemetry.rollout_windows import RolloutWindows
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind, ModelRef, Version

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
BOT = ("bot", "production")
PLAN = CanaryPlan(
    steps=(Step(percent=25, dwell_s=2), Step(percent=50, dwell_s=2)),
    guards=Guards(max_error_ratio=1.5, max_latency_ratio=1.5),
    min_requests=10,
)


class TimedRegistry(RegistryService):
    """Stamps what it commits with the test's time."""

    now = START

    def _now(self, state):
        return max(self.now, state.time)


class Killed(BaseException):
    """What a process does not catch: its end."""


class Killer:
    """Ends whoever calls, before or after the call of a number does its work."""

    def __init__(self, at=None):
        self.at = at
        self.points = 0

    def __call__(self):
        self.points += 1
        if self.points == self.at:
            raise Killed


class Mortal:
    """What a controller holds of the registry or the replicas: each call of it may be its last."""

    def __init__(self, real, killer):
        self.real, self.killer = real, killer

    def __getattr__(self, name):
        method = getattr(self.real, name)
        if not asyncio.iscoroutinefunction(method):

            def call(*args, **options):
                self.killer()
                result = method(*args, **options)
                self.killer()
                return result

            return call

        async def awaited(*args, **options):
            self.killer()
            result = await method(*args, **options)
            self.killer()
            return result

        return awaited


class World:
    """A registry, some replicas and their traffic; a second passes when the test says so."""

    def __init__(self, folder, *, bad=False, num_replicas=2):
        self.registry = TimedRegistry(Location(folder / "home"), principal="controller", cache=folder / "cache")
        for number in ("1.0.0", "1.1.0"):
            content = store_note(self.registry.content, number)
            self.registry.submit(Register("bot", ModelKind.ADAPTER, content, 1, number))
        self.registry.promote("bot:1.0.0", "production")
        self.bad = bad
        self.loaded = []
        self.replicas = [self.replica() for _ in range(num_replicas)]

    def replica(self):
        self.loaded.append(set())
        return RolloutWindows(
            lambda: {rollout.id for rollout in self.registry.state.rollouts_under_way()},
            self.clock,
        )

    def clock(self):
        return self.registry.now.timestamp()

    def start(self, plan=PLAN):
        self.registry.submit(StartRollout(ModelRef("bot", version=Version(1, 1, 0)), "production", plan))

    @property
    def rollout(self):
        return self.registry.refresh().rollout(*BOT)

    async def reports(self, rollout, after):
        return [windows.report(rollout, after) for windows in self.replicas]

    async def load(self, reference):
        for loaded in self.loaded:
            loaded.add(reference)

    def second(self, num_requests=40):
        """Requests for a second at each replica, split as the rollout says."""
        rollout = self.rollout
        for windows, number in itertools.product(self.replicas, range(num_requests)):
            is_candidate = number * 100 < rollout.percent * num_requests
            end = End.FAILED if is_candidate and self.bad else End.ANSWERED
            variant = Variant.CANDIDATE if is_candidate else Variant.BASELINE
            windows.add(rollout.id, variant, end, 0.1)
        self.registry.now += dt.timedelta(seconds=1)

    def controller(self, killer=None, **options):
        fleet = Mortal(self, killer or Killer())
        options = {"load": fleet.load, **options}
        return RolloutController(Mortal(self.registry, killer or Killer()), FleetObservations(fleet, None), **options)

    def turn(self, controller):
        return asyncio.run(controller.turn(self.registry.now))

    def live(self, killer=None, *, most_s=60):
        """Go on until the rollout is over; a controller that is killed has an heir a second later. The seconds."""
        controller = None
        for second in range(1, most_s + 1):
            self.second()
            try:
                controller = controller or self.controller(killer)
                self.turn(controller)
            except Killed:
                controller = None
            if not self.rollout.status.is_under_way:
                return second
        raise AssertionError(f"still {self.rollout.status} after {most_s} s")

    def end(self):
        history = [(change.status, change.step) for change in self.rollout.changes]
        return history, self.registry.resolve("bot@production").ref


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.start()
    return made


@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_a_controller_killed_between_any_two_calls_has_an_heir_that_ends_the_same(tmp_path, bad):
    def life(number, killer):
        world = World(tmp_path / str(number), bad=bad)
        world.start()
        return world.live(killer), world.end()

    undisturbed = Killer()
    seconds, end = life(0, undisturbed)
    good = [(RolloutStatus.RUNNING, 0), (RolloutStatus.RUNNING, 1), (RolloutStatus.PROMOTED, 1)]
    assert end == (
        ([(RolloutStatus.RUNNING, 0), (RolloutStatus.ROLLED_BACK, 0)], "bot:1.0.0") if bad else (good, "bot:1.1.0")
    )
    assert undisturbed.points >= 6
    for point in range(1, undisturbed.points + 1):
        killer = Killer(point)
        disturbed_s, found = life(point, killer)
        assert killer.points >= point
        assert found == end, f"killed at call {point}"
        assert disturbed_s <= seconds + 2


def test_a_bad_version_goes_within_ten_seconds_though_its_controller_dies_every_second(tmp_path):
    world = World(tmp_path, bad=True)
    world.start()
    for _ in range(10):
        world.second()
        world.turn(world.controller())  # none of them lives twice
        if not world.rollout.status.is_under_way:
            break
    assert world.rollout.status is RolloutStatus.ROLLED_BACK
    assert "guard max_error_ratio" in world.rollout.changes[-1].reason


def test_what_dead_replicas_saw_stays_seen(world):
    """A replica dies every second: the controller that lives on has heard all but the last."""
    controller = world.controller()
    for number in itertools.count():
        world.second()
        world.turn(controller)
        if not world.rollout.status.is_under_way:
            break
        world.replicas[number % 2] = world.replica()
        assert number < 20
    assert world.rollout.status is RolloutStatus.PROMOTED


def test_the_candidate_is_loaded_before_anything_is_decided_and_again_before_each_step(world):
    loads = []

    async def load(reference):
        loads.append((reference, world.rollout.step, world.registry.resolve("bot@production").ref))

    controller = world.controller(load=load)
    world.turn(controller)
    assert loads == [("bot:1.1.0", 0, "bot:1.0.0")]
    while world.rollout.status.is_under_way:
        world.second()
        world.turn(controller)
    assert {version for version, _, _ in loads} == {"bot:1.1.0"}
    assert [step for _, step, _ in loads] == [0, 0, 1, 1]  # seen, stepped; stayed, promoted
    assert loads[-1][2] == "bot:1.0.0"  # before the alias moved


def test_a_candidate_that_can_not_be_loaded_is_rolled_back(world):
    async def refuse(reference):
        raise UserError(f"vLLM refuses the adapter {reference}: rank 32 is above 16")

    world.second()
    (decision,) = world.turn(world.controller(load=refuse)).values()
    assert decision.move is Move.ROLL_BACK
    assert world.rollout.status is RolloutStatus.ROLLED_BACK
    assert "it can't be loaded: vLLM refuses the adapter bot:1.1.0: rank 32" in world.rollout.changes[-1].reason
    assert world.registry.resolve("bot@production").ref == "bot:1.0.0"


def test_a_rollout_that_nothing_serves_waits_and_goes_on_when_something_does(world, caplog):
    is_up = False

    async def load(reference):
        if not is_up:
            raise DeploymentError(f"{reference} could not be loaded: nothing runs.")
        await world.load(reference)

    controller = world.controller(load=load)
    replicas, world.replicas = world.replicas, []
    for _ in range(30):
        world.second()
        assert world.turn(controller) == {}
    assert world.rollout.status is RolloutStatus.RUNNING
    assert caplog.text.count("nothing runs") == 1
    is_up, world.replicas = True, replicas
    for _ in range(20):
        world.second()
        world.turn(controller)
    assert world.rollout.status is RolloutStatus.PROMOTED
    assert world.loaded == [{"bot:1.1.0"}] * 2


@pytest.mark.parametrize("bad", [False, True])
def test_a_load_that_takes_long_holds_up_steps_and_no_guard(tmp_path, bad, monkeypatch):
    monkeypatch.setattr("llamafarm_ray.serving.rollouts.controller._QUICK_LOAD_S", 0)
    world = World(tmp_path, bad=bad)
    world.start()

    async def scenario():
        loaded = asyncio.Event()
        controller = world.controller(load=lambda _reference: loaded.wait())
        for _ in range(10):
            world.second()
            decisions = await controller.turn(world.registry.now)
            if world.rollout.status is RolloutStatus.ROLLED_BACK:
                return decisions
        assert "loading bot:1.1.0" in next(iter(decisions.values())).reason
        assert world.rollout.step == 0
        loaded.set()
        for _ in range(20):
            await asyncio.sleep(0)
            world.second()
            await controller.turn(world.registry.now)
        return decisions

    asyncio.run(scenario())
    assert world.rollout.status is (RolloutStatus.ROLLED_BACK if bad else RolloutStatus.PROMOTED)


def test_rollouts_of_what_is_served_elsewhere_are_left_alone(world):
    world.bad = True
    controller = world.controller(
        serves=lambda candidate: candidate.registered.manifest != note_digest("1.1.0"), load=None
    )
    for _ in range(10):
        world.second()
        assert world.turn(controller) == {}
    assert world.rollout.status is RolloutStatus.RUNNING


class FailsFor(Engine):
    """Answers, but not for one version."""

    async def _answer(self, path, body, send):
        if "1.1.0" not in body["model"]:
            return await super()._answer(path, body, send)
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})
        return None


def test_what_a_replicas_gate_sees_of_a_failing_version_ends_its_rollout(tmp_path):
    world = World(tmp_path)
    world.start()
    server = Server(state=models_state(adapter("bot", "1.1.0", TWO)), engine=FailsFor())
    server.telemetry.windows = RolloutWindows(tuple, world.clock)
    world.replicas = [server.telemetry.windows]
    sides = [f"bot:1.0.0#{ONE.short};baseline", f"bot:1.1.0#{TWO.short};candidate"]
    controller = world.controller()
    for _ in range(10):
        for side in sides * 10:
            routed = {"serve_multiplexed_model_id": f"{side};{world.rollout.id}"}
            server.post("/v1/completions", {"model": "bot", "prompt": "?"}, headers=routed)
        world.registry.now += dt.timedelta(seconds=1)
        world.turn(controller)
        if not world.rollout.status.is_under_way:
            break
    assert world.rollout.status is RolloutStatus.ROLLED_BACK
    assert "requests failed" in world.rollout.changes[-1].reason
