"""Bad candidates go, fast; good ones stay; and what is decided survives whoever decided it."""

import asyncio
from dataclasses import replace

import pytest
from model_files import store_note
from rollout_traffic import (
    BOT,
    CANARY,
    GOOD,
    GUARDS,
    SECOND,
    START,
    STEPS,
    Behaviour,
    Traffic,
    record,
    version,
    watched,
)

from llamafarm_ray.errors import StorageError
from llamafarm_ray.registry import Guards, Policy, RegistryService, RolloutStatus
from llamafarm_ray.registry.commands import (
    PauseRollout,
    PromoteRollout,
    Register,
    SetPolicy,
    StartRollout,
    StopRollout,
)
from llamafarm_ray.registry.rollouts import AbPlan, BlueGreenPlan, CanaryPlan, ShadowPlan, Step
from llamafarm_ray.registry.state import RolloutChange
from llamafarm_ray.serving.rollouts import Decision, Evidence, Move, RolloutController, decide
from llamafarm_ray.serving.rollouts.controller import carry_out
from llamafarm_ray.serving.rollouts.progress import RolloutProgress, progress_of
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind, ModelRef, Version


@pytest.mark.parametrize(
    ("bad", "guard", "most"),
    [
        (Behaviour(error_rate=0.1), "max_error_ratio", 600),
        (Behaviour(error_rate=1.0), "max_error", 60),
        (Behaviour(error_rate=0.5), "max_error", 100),
        (Behaviour(latency_s=1.0), "max_latency_ratio", 900),
        (Behaviour(latency_s=5.0), "max_latency_ratio", 120),
        (Behaviour(rating=0.1), "min_feedback", 1200),
    ],
    ids=["10x errors", "only errors", "half errors", "2x latency", "10x latency", "bad ratings"],
)
def test_a_bad_candidate_is_rolled_back_within_so_many_of_its_requests(bad, guard, most):
    """Twenty runs each, at 5 percent of the traffic."""
    plan = CANARY.model_copy(update={"steps": (Step(percent=5, dwell_s=10_000),)})
    needed = []
    for seed in range(20):
        decision, evidence = watched(record(plan), Traffic(seed, candidate=bad), seconds=600)
        assert decision.move is Move.ROLL_BACK, decision
        assert f"guard {guard}" in decision.reason
        needed.append(evidence.candidate.requests)
    assert max(needed) <= most, needed


@pytest.mark.parametrize("percent", [5, 50])
def test_equal_variants_are_rolled_back_in_one_of_a_hundred_runs_at_most(percent):
    """With guards that allow nothing at all: the limits are where the candidate is."""
    guards = Guards(max_error_rate=0.05, max_error_ratio=1, max_latency_ratio=1, min_feedback=0.8)
    plan = CanaryPlan(steps=(Step(percent=percent, dwell_s=10_000),), guards=guards)
    same = Behaviour(error_rate=0.05)
    ends = [
        watched(record(plan), Traffic(seed, candidate=same, baseline=same, requests=200), seconds=100)[0].move
        for seed in range(120)
    ]
    assert ends.count(Move.ROLL_BACK) <= 1
    assert ends.count(Move.STAY) >= 119


def test_an_outage_that_hits_both_is_no_reason_to_roll_back():
    out = Behaviour(error_rate=0.9, latency_s=20)
    plan = CANARY.model_copy(update={"guards": Guards(max_error_ratio=1.2, max_latency_ratio=1.2)})
    evidence = Evidence()
    for number in range(40):
        now = out if number % 4 == 0 else GOOD
        traffic = Traffic(number, candidate=now, baseline=now)
        evidence = evidence.after(traffic.window(record(plan), START + 5 * number * SECOND), record(plan))
        assert decide(record(plan), evidence, version(), START).move is not Move.ROLL_BACK


def test_a_step_needs_its_dwell_and_its_requests():
    few = Traffic(requests=20)
    rollout = record()
    decision, _ = watched(rollout, few, seconds=60)
    assert (decision.move, "of 50 requests at this step" in decision.reason) == (Move.STAY, True)
    decision, evidence = watched(rollout, Traffic(), seconds=30)
    assert (decision.move, decision.reason) == (Move.STAY, "this step has 30 s to go")
    decision = decide(rollout, evidence, version(), START + 60 * SECOND)
    assert decision.move is Move.STEP
    assert "at 5 %, and no guard was broken" in decision.reason
    assert decide(record(step=2), replace(evidence, step=2), version(), START + 60 * SECOND).move is Move.PROMOTE
    assert decide(record(step=1), evidence, version(), START + 60 * SECOND).move is Move.STAY  # of another step


def test_requests_of_the_step_before_do_not_count_for_the_next():
    first, traffic = record(), Traffic(requests=2000)
    evidence = Evidence().after(traffic.window(first, START), first)
    assert evidence.requests_in(first) == evidence.candidate.requests > 50
    second = first.after(RolloutChange(RolloutStatus.RUNNING, 1, START + 7 * SECOND, "ann", ""))
    assert evidence.requests_in(second) == 0
    evidence = evidence.after(traffic.window(second, START + 5 * SECOND), second)  # began before the step did
    assert evidence.requests_in(second) == 0
    assert evidence.after(traffic.window(second, START + 10 * SECOND), second).requests_in(second) > 400


def test_what_waits_for_somebody_is_not_promoted():
    for plan in (CANARY.model_copy(update={"automatic": False, "steps": STEPS[:1]}), ShadowPlan(dwell_s=60)):
        decision, _ = watched(record(plan), Traffic())
        assert (decision.move, "waits for somebody to promote it" in decision.reason) == (Move.STAY, True)


def test_a_paused_rollout_stays_unless_a_guard_is_broken():
    paused = record(status=RolloutStatus.PAUSED)
    assert watched(paused, Traffic())[0] == Decision(Move.STAY, "it is paused")
    assert watched(paused, Traffic(candidate=Behaviour(error_rate=0.9)))[0].move is Move.ROLL_BACK


def test_a_shadow_that_fails_goes_though_nobody_saw_it():
    plan = ShadowPlan(percent=20, guards=Guards(max_error_ratio=2))
    decision, _ = watched(record(plan), Traffic(candidate=Behaviour(error_rate=0.3)))
    assert decision.move is Move.ROLL_BACK


def test_blue_green_is_promoted_after_its_dwell_or_goes_back():
    plan = BlueGreenPlan(steps=(Step(percent=100, dwell_s=60),), guards=Guards(max_error_rate=0.05))
    assert watched(record(plan), Traffic())[0].move is Move.PROMOTE
    decision, evidence = watched(record(plan), Traffic(candidate=Behaviour(error_rate=0.3)))
    assert decision.move is Move.ROLL_BACK
    assert evidence.candidate.requests <= 500


@pytest.mark.parametrize(
    ("metrics", "says"), [({"accuracy": 0.6}, "accuracy must be >0.7, and is 0.6"), ({}, "was not measured")]
)
def test_a_candidate_that_fails_an_evaluation_meanwhile_goes(metrics, says):
    plan = CANARY.model_copy(update={"guards": Guards.model_validate({"metrics": {"accuracy": ">0.7"}})})
    assert watched(record(plan), Traffic(), candidate=version(accuracy=0.8), seconds=30)[0].move is Move.STAY
    decision = decide(record(plan), Evidence(), version(**metrics), START)
    assert decision.move is Move.ROLL_BACK
    assert says in decision.reason


@pytest.mark.parametrize(
    ("metric", "better", "says"),
    [
        ("feedback", Behaviour(rating=0.9), "rating by"),
        ("error_rate", Behaviour(error_rate=0.001), "error rate, lower by"),
        ("latency", Behaviour(latency_s=0.4), "times as fast"),
    ],
)
def test_an_ab_rollout_ends_with_the_better_variant(metric, better, says):
    plan = AbPlan(metric=metric, min_requests=100)
    decision, evidence = watched(record(plan), Traffic(candidate=better), seconds=1000)
    assert (decision.move, says in decision.reason) == (Move.PROMOTE, True)
    assert evidence.candidate.requests < 20_000
    decision, _ = watched(record(plan), Traffic(baseline=better), seconds=1000)
    assert decision.move is Move.ROLL_BACK
    assert "the baseline is better" in decision.reason
    waits = plan.model_copy(update={"automatic": False})
    assert watched(record(waits), Traffic(candidate=better), seconds=200)[0].move is Move.STAY


def test_an_ab_rollout_without_a_difference_ends_too():
    plan = AbPlan(metric="latency", max_requests=5000)
    decision, evidence = watched(record(plan), Traffic(), seconds=1000)
    assert (decision.move, "5,000 requests show no difference in latency" in decision.reason) == (Move.ROLL_BACK, True)
    assert evidence.baseline.requests + evidence.candidate.requests == 5000


@pytest.fixture
def registry(tmp_path):
    made = RegistryService(Location(tmp_path / "home"), principal="controller", cache=tmp_path / "cache")
    for number in ("1.0.0", "1.1.0"):
        made.submit(Register("bot", ModelKind.ADAPTER, store_note(made.content, number), 1, number))
    made.promote("bot:1.0.0", "production")
    return made


def start(registry, plan=CANARY):
    registry.submit(StartRollout(ModelRef("bot", version=Version(1, 1, 0)), "production", plan))
    return registry.state.rollout(*BOT)


class Clockwork:
    """Controllers that are killed after every turn, and time that only goes on between turns."""

    def __init__(self, registry, traffic):
        self.registry, self.traffic = registry, traffic
        self.now = registry.state.rollout(*BOT).changes[0].time

    @property
    def rollout(self):
        return self.registry.refresh().rollout(*BOT)

    def turn(self, controller=None):
        self.now += 5 * SECOND
        self.traffic.go_on(self.rollout, self.now)
        controller = controller or RolloutController(self.registry, self.traffic)
        return asyncio.run(controller.turn(self.now))


def test_a_bad_candidate_is_rolled_back_by_itself_though_every_controller_dies_after_a_turn(registry):
    start(registry)
    clock = Clockwork(registry, Traffic(candidate=Behaviour(error_rate=0.5)))
    turns = 0
    while clock.rollout.status.is_under_way:
        clock.turn()
        turns += 1
    assert turns <= 10
    assert clock.rollout.status is RolloutStatus.ROLLED_BACK
    assert "requests failed" in clock.rollout.changes[-1].reason
    assert registry.resolve("bot@production").ref == "bot:1.0.0"
    assert clock.turn() == {}


def test_a_good_candidate_is_promoted_step_by_step(registry):
    rollout = start(registry, CanaryPlan(steps=STEPS, guards=GUARDS, min_requests=20))
    clock = Clockwork(registry, Traffic(requests=2000))
    clock.now = rollout.step_since + 60 * SECOND  # the registry's clock is the real one
    moves = []
    while clock.rollout.status.is_under_way:
        moves += [decision.move for decision in clock.turn().values()]
        clock.now = max(clock.now, clock.rollout.step_since + 60 * SECOND)
    assert [move for move in moves if move is not Move.STAY] == [Move.STEP, Move.STEP, Move.PROMOTE]
    assert registry.resolve("bot@production").ref == "bot:1.1.0"
    assert [change.step for change in clock.rollout.changes] == [0, 1, 2, 2]


def test_a_candidate_that_is_measured_worse_than_production_meanwhile_goes(registry):
    guards = Guards.model_validate({"metrics": {"f1": "no worse than production"}})
    for ref in ("bot:1.0.0", "bot:1.1.0"):
        registry.record_metrics(ref, {"f1": 0.5}, reason="evaluated")
    start(registry, CANARY.model_copy(update={"guards": guards}))
    clock = Clockwork(registry, Traffic())
    assert [decision.move for decision in clock.turn().values()] == [Move.STAY]
    registry.record_metrics("bot:1.1.0", {"f1": 0.4}, reason="evaluated again")
    (decision,) = clock.turn().values()
    assert decision.move is Move.ROLL_BACK
    assert "f1 must be no worse than production, and is 0.4 where bot:1.0.0 has 0.5" in decision.reason


def test_a_controller_that_lives_on_sees_each_window_once(registry):
    start(registry)
    clock = Clockwork(registry, Traffic())
    controller = RolloutController(registry, clock.traffic)
    for _ in range(5):
        clock.turn(controller)
    ((evidence, until),) = controller._seen.values()
    assert evidence.baseline.requests + evidence.candidate.requests == 2500
    assert until == clock.now


def test_a_controller_tells_what_it_saw_and_how_near_each_guard_is_to_being_broken(registry):
    rollout = start(registry)
    clock = Clockwork(registry, Traffic(seed=3, candidate=Behaviour(error_rate=0.05), requests=400))
    controller = RolloutController(registry, clock.traffic)
    assert controller.progress() == {}
    (decision,) = clock.turn(controller).values()
    told = RolloutProgress.model_validate_json(controller.progress()[rollout.id].model_dump_json())
    assert told.until == clock.now
    assert told.next == decision.reason
    (window,) = clock.traffic._kept
    for told_of, seen in ((told.baseline, window.baseline), (told.candidate, window.candidate)):
        assert (told_of.requests, told_of.errors, told_of.ratings) == (seen.requests, seen.errors, seen.ratings.count)
        assert told_of.p95_latency_s == seen.latencies.quantile_s(0.95)
    assert told.step_requests == window.candidate.requests
    assert [guard.name for guard in told.guards] == list(Guards.model_fields)[:4]
    assert told.comparison is None
    registry.submit(StopRollout(*BOT))
    assert controller.progress() == {}


def test_a_guard_is_broken_when_its_evidence_is_all_that_it_takes():
    """Whatever ends a rollout, the share that watchers see reaches 1 with that window, and not before."""
    rollout, traffic, shares = record(), Traffic(candidate=Behaviour(error_rate=0.2), requests=400), []
    evidence = Evidence()
    while not shares or shares[-1] < 1:
        evidence = evidence.after(traffic.window(rollout, START + 5 * len(shares) * SECOND), rollout)
        told = progress_of(rollout, evidence, START)
        shares.append(max(guard.share for guard in told.guards))
        is_broken = decide(rollout, evidence, version(), START).move is Move.ROLL_BACK
        assert is_broken is (shares[-1] >= 1)
    ratio = next(guard for guard in told.guards if guard.name == "max_error_ratio")
    assert ratio.measured > ratio.limit
    assert 0 < shares[0] < 1


def test_how_sure_an_ab_rollout_is_reaches_what_it_needs_when_it_ends():
    plan = AbPlan(metric="latency", min_requests=10)
    rollout, traffic, evidence = record(plan), Traffic(candidate=Behaviour(latency_s=0.4), requests=200), Evidence()
    empty = progress_of(rollout, evidence, START).comparison
    assert (empty.leader, empty.sureness, empty.measured) == ("", 0, 0)
    for number in range(200):
        evidence = evidence.after(traffic.window(rollout, START + 5 * number * SECOND), rollout)
        told = progress_of(rollout, evidence, START).comparison
        has_ended = decide(rollout, evidence, version(), START).move is not Move.STAY
        assert has_ended is (told.sureness > plan.confidence)
        if has_ended:
            break
    assert (told.leader, told.metric, told.needed) == ("candidate", "latency", 0.95)
    assert number > 0


def test_what_was_decided_twice_is_done_once(registry):
    rollout = start(registry)
    for _ in range(2):  # killed after the commit and before it could note so
        carry_out(registry, rollout, Decision(Move.STEP, "good"))
    assert registry.state.rollout(*BOT).step == 1
    assert len(registry.state.rollout(*BOT).changes) == 2


@pytest.mark.parametrize("command", [StopRollout(*BOT), PromoteRollout(*BOT)])
@pytest.mark.parametrize("move", [Move.STEP, Move.PROMOTE, Move.ROLL_BACK])
def test_who_decided_on_what_is_over_changes_nothing(registry, command, move):
    rollout = start(registry)
    registry.submit(command)
    state = registry.refresh()
    with pytest.raises(Exception, match="is over") as refused:
        carry_out(registry, rollout, Decision(move, ""))
    assert refused.value.code == "conflict"
    assert registry.refresh() == state


def test_a_turn_survives_somebody_who_was_faster(registry):
    rollout = start(registry)

    class Faster(Traffic):
        async def windows(self, rollout, _after):
            if registry.refresh().rollout(*BOT).status is RolloutStatus.RUNNING:
                registry.submit(PauseRollout(*BOT))
            return [self.window(rollout, rollout.step_since + 5 * number * SECOND) for number in range(40)]

    controller = RolloutController(registry, Faster())
    found = asyncio.run(controller.turn(rollout.step_since + 200 * SECOND))
    assert found[rollout.id].move is Move.STEP
    assert registry.refresh().rollout(*BOT).status is RolloutStatus.PAUSED


def test_a_rollout_that_can_not_be_observed_does_not_hold_up_the_others(registry, caplog):
    registry.promote("bot:1.0.0", "staging")
    registry.submit(StartRollout(ModelRef("bot", version=Version(1, 1, 0)), "staging", CANARY))
    start(registry)

    class HalfDown(Traffic):
        async def windows(self, rollout, _after):
            if rollout.alias == "staging":
                raise StorageError("the bucket does not answer.")
            return [self.window(rollout, rollout.step_since)]

    bad = HalfDown(candidate=Behaviour(error_rate=1))
    now = registry.state.time + 5 * SECOND
    assert list(asyncio.run(RolloutController(registry, bad).turn(now))) == ["bot@production#1"]
    assert registry.refresh().rollout(*BOT).status is RolloutStatus.ROLLED_BACK
    assert "bot@staging#1 could not be taken further: the bucket does not answer" in caplog.text


def test_a_promotion_that_the_policy_forbids_by_now_waits_for_somebody(registry):
    rollout = start(registry)
    registry.submit(SetPolicy("production", Policy(licenses=("MIT",))))
    carry_out(registry, rollout, Decision(Move.PROMOTE, "good"))
    found = registry.state.rollout(*BOT)
    assert found.status is RolloutStatus.PAUSED
    assert "good, but: bot:1.1.0 may not become 'production': its licence" in found.changes[-1].reason
