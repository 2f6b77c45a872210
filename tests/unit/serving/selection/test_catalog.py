"""What an application knows of its models: capabilities, results and memory from the registry, latencies measured."""

import asyncio

import pytest
from fake_gateway import BASE, NOW, ONE, TWO, adapter, models_state, state_of

from llamafarm_ray.registry import Change, Commit, VersionRegistered
from llamafarm_ray.registry.events import AliasMoved, MetricsRecorded, RolloutStarted, VersionDeprecated, VersionRetired
from llamafarm_ray.registry.log import GENESIS
from llamafarm_ray.registry.rollouts import CanaryPlan, Step
from llamafarm_ray.serving.routing.traffic_split import NOBODY, Caller
from llamafarm_ray.serving.selection.catalog import VECTORS, WRITES, ModelCatalog, quality_of
from llamafarm_ray.serving.selection.latencies import Kept, Lasting, Latencies
from llamafarm_ray.serving.telemetry.outcome import End
from llamafarm_ray.serving.telemetry.request_statistics import MINUTE_S, Activity, RecentRequests, Seen, joined
from llamafarm_ray.types import ModelKind

NOTHING = Latencies()


def after(state, *events):
    change = Change(time=NOW, principal="x", idempotency_key=f"k{state.sequence}", events=events)
    return state.after(Commit(sequence=state.sequence + 1, previous=GENESIS.digest, time=NOW, changes=(change,)))


def offers_in(state, latencies=NOTHING, caller=NOBODY, offers=None):
    found = (offers or ModelCatalog("tiny", BASE)).to_choose_from(state, latencies, caller)
    return {offer.model: offer for offer in found}


def test_there_is_one_for_the_base_and_one_for_each_model():
    found = offers_in(models_state())
    assert list(found) == ["tiny", "bot", "team/bot", "team/tuned"]
    assert (found["bot"].version, found["bot"].withheld) == ("bot:1.0.0", "")
    assert found["team/bot"].withheld == "none of its versions is production"
    assert (found["tiny"].version, found["tiny"].withheld) == ("tiny", "")
    assert {offer.tasks for offer in found.values()} == {WRITES}


def test_capabilities_say_what_a_version_is_for_and_the_engine_what_it_answers():
    record = adapter("bot", "1.0.0", ONE).model_copy(update={"capabilities": ("qa", "chat")})
    state = state_of(record, adapter("plain", "1.0.0", TWO))
    assert (offers_in(state)["bot"].tasks, offers_in(state)["bot"].kinds) == (("qa", "chat"), WRITES)
    vectors = offers_in(state, offers=ModelCatalog("tiny", BASE, VECTORS))
    assert (vectors["plain"].tasks, vectors["bot"].kinds) == (VECTORS, VECTORS)


def test_memory_is_what_was_registered_else_the_files_and_the_bases():
    said = adapter("said", "1.0.0", ONE).model_copy(update={"resources": {"memory_bytes": 7e9}})
    base = VersionRegistered(model="plain", version="1.0.0", kind=ModelKind.BASE, manifest=BASE, size_bytes=1000)
    state = state_of(said, adapter("bot", "1.0.0", TWO))
    offers = ModelCatalog("tiny", BASE)
    found = offers_in(state, offers=offers)
    assert [found[name].memory_bytes for name in ("said", "bot", "tiny")] == [7e9, None, None]
    found = offers_in(after(state, base), offers=offers)
    assert [found[name].memory_bytes for name in ("said", "bot", "tiny")] == [7e9, 1001, 1000]


def test_results_that_are_recorded_later_count():
    state, offers = models_state(), ModelCatalog("tiny", BASE)
    assert offers_in(state, offers=offers)["bot"].quality is None
    state = after(state, MetricsRecorded(model="bot", version="1.0.0", metrics={"accuracy": 0.7}))
    found = offers_in(state, offers=offers)["bot"]
    assert (found.quality, found.quality_metric) == (0.7, "accuracy")


@pytest.mark.parametrize(
    ("metrics", "quality"),
    [
        ({}, None),
        ({"loss": 0.1, "perplexity": 3.0}, None),
        ({"accuracy": 0.8, "rouge_l": 0.9}, (0.8, "accuracy")),
        ({"response_quality": 0.88, "accuracy": 0.8}, (0.88, "quality")),
        ({"b": {"mmlu": {"accuracy": 0.7}, "qa": {"accuracy": 0.9}}}, (0.8, "accuracy")),
        ({"b": {"baseline": {"accuracy": 0.2}, "accuracy": 0.6}}, (0.6, "accuracy")),
        ({"accuracy": 80, "rouge_l": 0.4}, (0.4, "rouge_l")),
    ],
)
def test_quality_is_the_result_that_says_most(metrics, quality):
    assert quality_of(metrics) == (
        pytest.approx(quality) if quality is None else (pytest.approx(quality[0]), quality[1])
    )


def test_who_is_given_the_candidate_is_offered_it():
    state = after(models_state(), adapter("bot", "1.1.0", TWO))
    plan = CanaryPlan(steps=(Step(percent=50, dwell_s=1),))
    state = after(
        state, RolloutStarted(model="bot", alias="production", number=1, baseline="1.0.0", candidate="1.1.0", plan=plan)
    )
    versions = {offers_in(state, caller=Caller(user=str(n)))["bot"].version for n in range(40)}
    assert versions == {"bot:1.0.0", "bot:1.1.0"}


def test_a_deprecated_version_is_withheld_and_a_retired_one_is_not_offered():
    state = after(models_state(), VersionDeprecated(model="bot", version="1.0.0", message="use tuned"))
    assert offers_in(state)["bot"].withheld == "it is deprecated: use tuned"
    state = after(models_state(), VersionRetired(model="team/bot", version="1.0.0"))
    assert "team/bot" not in offers_in(state)


def test_names_with_versions_and_aliases_are_described_too():
    state = after(models_state(), AliasMoved(model="team/bot", alias="staging", version="1.0.0"))
    found = ModelCatalog("tiny", BASE).of(["bot:1.0.0", "team/bot@staging", "nothing", "bot@nope"], state, NOTHING)
    assert {name: offer.version for name, offer in found.items()} == {
        "bot:1.0.0": "bot:1.0.0",
        "team/bot@staging": "team/bot:1.0.0",
    }
    assert not any(offer.withheld for offer in found.values())


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_the_last_minutes_requests_are_counted_and_the_latest_latencies_kept():
    clock = Clock()
    recent = RecentRequests(clock)
    for end in (End.ANSWERED, End.ANSWERED, End.FAILED, End.REFUSED, End.CANCELLED):
        recent.add("bot:1.0.0", end, 0.5)
    seen = recent.seen()["bot:1.0.0"]
    assert (seen.minute.requests, seen.minute.errors, seen.latest.count) == (3, 1, 2)
    assert seen.requests_per_s == 3 / 60
    assert seen.latency_ms == pytest.approx(500, rel=0.03)
    clock.now += MINUTE_S - 1
    recent.add("bot:1.0.0", End.ANSWERED, 0.5)
    assert recent.seen()["bot:1.0.0"].minute.requests == 4
    clock.now += 1
    assert recent.seen()["bot:1.0.0"].minute.requests == 1
    clock.now += 3600
    seen = recent.seen()["bot:1.0.0"]
    assert (seen.minute.requests, seen.latest.count) == (0, 3)


def test_of_latencies_the_newest_count_and_of_versions_those_asked_last():
    recent = RecentRequests(Clock())
    for latency_s in [9.0] * 300 + [0.1] * 200:
        recent.add("bot:1.0.0", End.ANSWERED, latency_s)
    assert recent.seen()["bot:1.0.0"].latency_ms == pytest.approx(100, rel=0.03)
    for number in range(1000):
        recent.add(f"v{number}", End.ANSWERED, 0.1)
    assert len(recent.seen()) == 1000
    assert "bot:1.0.0" not in recent.seen()


def seen_of(*latencies_s):
    recent = RecentRequests(Clock())
    for latency_s in latencies_s:
        recent.add("x", End.ANSWERED, latency_s)
    return recent.seen()["x"]


def test_what_replicas_saw_adds_up():
    one, two = (Activity("tiny", seen={"x": seen_of(*[s] * 10), f"only-{s}": seen_of(s)}) for s in (0.1, 2.0))
    found = joined([one, two])
    assert set(found) == {"x", "only-0.1", "only-2.0"}
    assert found["x"].minute.requests == 20
    assert found["x"].latency_ms == pytest.approx(2000, rel=0.03)
    assert joined([]) == {}


def test_a_version_that_has_answered_nothing_is_taken_to_be_as_fast_as_the_others():
    latencies = Latencies.of({"bot:1.0.0": seen_of(0.1), "tiny": seen_of(*[0.4] * 99), "failed": Seen()})
    assert latencies.get("bot:1.0.0") == pytest.approx(100, rel=0.03)
    assert latencies.get("new:1.0.0") == latencies.get("failed") == pytest.approx(400, rel=0.03)
    assert Latencies.of({}).get("bot:1.0.0") is None
    found = offers_in(models_state(), latencies)
    assert found["bot"].latency_ms < found["team/bot"].latency_ms


def test_an_answer_that_took_longer_than_it_counts_is_not_old_when_it_comes():
    clock, asked = Clock(), []

    async def ask():
        asked.append(clock.now)
        clock.now += 3.0
        return len(asked)

    async def scenario():
        kept = Kept(ask, 2.0, clock)
        assert await kept.get() == 1
        clock.now += 1.9
        assert await kept.get() == 1

    asyncio.run(scenario())


def test_the_last_answer_is_there_at_once_and_asked_anew_meanwhile_unless_it_is_stale():
    clock, asked = Clock(), []

    async def scenario():
        answers = asyncio.Queue()

        async def ask():
            asked.append(clock.now)
            if isinstance(said := await answers.get(), Exception):
                raise said
            return said

        kept = Kept(ask, 1.0, clock)
        answers.put_nowait("first")
        assert await kept.get_soon(30.0) == "first"
        clock.now += 1.0
        for _ in range(3):  # nobody answers
            assert await kept.get_soon(30.0) == "first"
            await asyncio.sleep(0)
        assert len(asked) == 2
        answers.put_nowait(ValueError("no answer"))
        await kept._asking
        assert await kept.get_soon(30.0) == "first"
        answers.put_nowait("second")
        await kept._asking
        assert await kept.get_soon(30.0) == "second"
        assert len(asked) == 3
        clock.now += 30.0
        answers.put_nowait("third")
        assert await kept.get_soon(30.0) == "third"

    asyncio.run(scenario())


def test_what_was_said_stands_for_a_while_in_silence():
    clock = Clock()
    lasting = Lasting(30.0, clock)
    assert lasting.told(None) is None
    assert lasting.told("one") == "one"
    clock.now += 29.9
    assert lasting.told(None) == "one"
    assert lasting.told("two") == "two"
    clock.now += 29.9
    assert lasting.told(None) == "two"
    clock.now += 0.1
    assert lasting.told(None) is None


def test_a_question_is_asked_once_for_all_who_wait_and_again_when_its_answer_is_old():
    clock, asked = Clock(), []

    async def ask():
        asked.append(clock.now)
        await asyncio.sleep(0)
        return len(asked)

    async def scenario():
        kept = Kept(ask, 2.0, clock)
        assert await asyncio.gather(*(kept.get() for _ in range(10))) == [1] * 10
        clock.now += 1.9
        assert await kept.get() == 1
        clock.now += 0.1
        assert await kept.get() == 2

    asyncio.run(scenario())
