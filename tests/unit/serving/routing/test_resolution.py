"""A name in a request means exactly one version, or a clear error."""

import datetime as dt

import pytest
from fake_gateway import BASE, ONE, TWO, adapter

from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.registry import Change, Commit, RegistryState, VersionRegistered
from llamafarm_ray.registry.events import AliasMoved, MetricsRecorded, RolloutStarted, RolloutStepped, RolloutStopped
from llamafarm_ray.registry.log import GENESIS
from llamafarm_ray.registry.rollouts import CanaryPlan, ShadowPlan, Step
from llamafarm_ray.serving.routing.resolution import resolve, resolve_routed, served_models
from llamafarm_ray.serving.routing.traffic_split import Caller, Variant
from llamafarm_ray.types import Digest, ModelKind

OTHER = Digest.of(b"other")

MEASURED = {"evaluation_results": {"benchmarks": {"held_out": {"perplexity": 1.2}}}}
"""A result on another form of the base."""


@pytest.fixture
def state():
    events = (
        adapter("bot", "1.0.0", ONE),
        adapter("bot", "1.1.0", TWO),
        AliasMoved(model="bot", alias="production", version="1.0.0"),
        adapter("foreign", "1.0.0", ONE, base=OTHER),
        VersionRegistered(model="plain", version="1.0.0", kind=ModelKind.BASE, manifest=BASE, size_bytes=1),
    )
    return after(RegistryState(), *events)


def after(state, *events):
    now = dt.datetime.now(dt.UTC)
    change = Change(time=now, principal="x", idempotency_key="k", events=events)
    sequence = state.sequence + 1
    return state.after(Commit(sequence=sequence, previous=GENESIS.digest, time=now, changes=(change,)))


def target(state, model, **caller):
    return resolve(model, state, base_name="tiny", base_digest=BASE, caller=Caller(**caller))


def routed(state, text):
    return resolve_routed(text, state, base_name="tiny", base_digest=BASE)


def quantized(model, version, manifest, base=OTHER):
    return adapter(model, version, manifest, base).model_copy(update={"kind": ModelKind.QUANTIZED})


def test_where_one_of_a_models_files_is_deployed_its_others_are_versions(state):
    three, four = Digest.of(b"3"), Digest.of(b"4")
    state = after(
        state, quantized("q", "1.0.0", BASE), quantized("q", "1.1.0", three), quantized("r", "1.0.0", four, ONE)
    )
    assert target(state, "q:1.1.0").digest == three
    assert target(state, "q:1.0.0").digest == BASE
    assert "q:1.1.0" in served_models(state, base_name="tiny", base_digest=BASE)
    assert served_models(state, base_name="q", base_digest=BASE).count("q") == 1
    with pytest.raises(NotFoundError, match="registered as quantized"):
        target(state, "r")


def test_another_form_of_a_model_is_no_version_of_the_model_itself(state):
    state = after(state, quantized("q", "1.0.0", ONE, BASE))
    with pytest.raises(NotFoundError, match="registered as quantized"):
        target(state, "q")


OF_ROLLOUT = {"model": "bot", "alias": "production", "number": 1}
CANARY = CanaryPlan(steps=(Step(percent=5, dwell_s=1), Step(percent=25, dwell_s=1)))


def started(state, plan):
    return after(state, RolloutStarted(**OF_ROLLOUT, baseline="1.0.0", candidate="1.1.0", plan=plan))


def who_gets_the_candidate(state, model="bot"):
    users = [f"user-{number}" for number in range(2000)]
    return {user for user in users if target(state, model, user=user).variant is Variant.CANDIDATE}


def test_a_rollout_splits_requests_to_its_alias_and_to_the_bare_name(state):
    state = started(state, CANARY)
    chosen = who_gets_the_candidate(state)
    assert 0.035 < len(chosen) / 2000 < 0.065
    assert who_gets_the_candidate(state, "bot@production") == chosen
    for user, version in ((next(iter(chosen)), "bot:1.1.0"), ("user-x", "bot:1.0.0")):
        found = target(state, "bot", user=user)
        assert (found.ref, found.rollout) == (version, "bot@production#1")
    assert chosen < who_gets_the_candidate(after(state, RolloutStepped(**OF_ROLLOUT, step=1)))


def test_who_names_a_version_gets_it_whatever_is_rolled_out(state):
    state = started(state, CanaryPlan(steps=(Step(percent=100, dwell_s=1),)))
    assert target(state, "bot").ref == "bot:1.1.0"
    for model in ("bot:1.0.0", f"bot:1.0.0#{ONE.short}"):
        assert (target(state, model).ref, target(state, model).variant) == ("bot:1.0.0", None)


def test_a_rollout_that_is_over_splits_nothing(state):
    state = after(started(state, CanaryPlan(steps=(Step(percent=100, dwell_s=1),))), RolloutStopped(**OF_ROLLOUT))
    assert (target(state, "bot").ref, target(state, "bot").variant) == ("bot:1.0.0", None)


def test_the_session_counts_where_the_plan_says_so_and_where_there_is_no_user(state):
    by_session = started(state, CANARY.model_copy(update={"sticky_by": "session"}))
    by_user = started(state, CANARY)
    for number in range(200):
        session = {"session": str(number)}
        alone = target(by_session, "bot", **session).variant
        assert target(by_session, "bot", user="ann", **session).variant is alone
        assert target(by_user, "bot", **session).variant is alone
        assert target(by_user, "bot", user="ann", **session).variant is target(by_user, "bot", user="ann").variant


def test_a_shadow_gets_a_copy_and_the_baseline_answers(state):
    found = target(started(state, ShadowPlan(percent=100)), "bot")
    assert (found.ref, found.variant) == ("bot:1.0.0", Variant.BASELINE)
    assert (found.shadow.ref, found.shadow.variant) == ("bot:1.1.0", Variant.SHADOW)
    copied = sum(target(started(state, ShadowPlan(percent=50)), "bot").shadow is not None for _ in range(400))
    assert 120 < copied < 280


@pytest.mark.parametrize("plan", [CANARY, ShadowPlan(percent=50)])
def test_what_the_router_writes_is_what_the_gateway_reads(state, plan):
    split = started(state, plan)
    for user in range(50):
        decided = target(split, "bot", user=str(user))
        assert routed(split, decided.routed) == decided
        assert not set(decided.routed) & set('"}')  # HAProxy's Lua finds it with a pattern
    for model in ("bot", "bot:1.1.0", "tiny"):
        assert routed(state, target(state, model).routed) == target(state, model)


def test_a_client_can_not_write_what_the_router_writes(state):
    with pytest.raises((InputError, NotFoundError)):
        target(state, target(started(state, CANARY), "bot").routed)


@pytest.mark.parametrize(
    ("model", "version", "digest"),
    [
        ("bot", "bot:1.0.0", ONE),
        ("bot@production", "bot:1.0.0", ONE),
        ("bot:1.1.0", "bot:1.1.0", TWO),
        (f"bot:1.1.0#{TWO.short}", "bot:1.1.0", TWO),
        ("tiny", "tiny", None),
    ],
)
def test_each_way_of_naming_gives_its_version(state, model, version, digest):
    found = target(state, model)
    assert (found.ref, found.digest) == (version, digest)
    assert found.engine_name == (f"{version}#{digest.short}" if digest else "tiny")


def test_what_a_response_reported_can_be_asked_for_again(state):
    first = target(state, "bot")
    assert target(state, first.engine_name) == first


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("bott", "Did you mean bot"),
        ("bot:3.0.0", "no version 3.0.0"),
        ("bot@nope", "no alias 'nope'"),
        ("bot:1.0.0#ffffffffffff", "does not exist"),
        ("foreign", "no adapter of 'tiny'"),
        ("plain", "no adapter of 'tiny'"),
    ],
)
def test_what_is_not_served_is_not_found(state, model, says):
    with pytest.raises(NotFoundError, match=says):
        target(state, model)


@pytest.mark.parametrize("model", ["../x", "bot:1", "bot@", "a b", "bot\n", "bot:1.0.0\n", "ü"])
def test_what_is_no_name_is_the_clients_mistake(state, model):
    with pytest.raises(InputError):
        target(state, model)


def test_only_this_bases_adapters_are_listed(state):
    names = served_models(state, base_name="tiny", base_digest=BASE)
    assert names == ["tiny", "bot", "bot@production", "bot:1.0.0", "bot:1.1.0"]


def test_an_adapter_of_the_original_is_served_on_what_was_made_of_it_once_it_was_evaluated_there(state):
    quarter = Digest.of(b"quantized")
    state = after(state, quantized("tiny-int4", "1.0.0", quarter, BASE))
    on_it = {"base_name": "tiny-int4", "base_digest": quarter}
    with pytest.raises(NotFoundError, match=r"evaluate --model bot:1\.0\.0 --base-model tiny-int4"):
        resolve("bot", state, **on_it)
    state = after(state, MetricsRecorded(model="bot", version="1.0.0", metrics={"evaluated_on": {OTHER: MEASURED}}))
    with pytest.raises(NotFoundError, match="Evaluate it there first"):
        resolve("bot", state, **on_it)
    state = after(state, MetricsRecorded(model="bot", version="1.0.0", metrics={"evaluated_on": {quarter: {}}}))
    with pytest.raises(NotFoundError, match="Evaluate it there first"):
        resolve("bot", state, **on_it)
    state = after(state, MetricsRecorded(model="bot", version="1.0.0", metrics={"evaluated_on": {quarter: MEASURED}}))
    assert resolve("bot", state, **on_it).digest == ONE
    assert "bot" in served_models(state, **on_it)
    with pytest.raises(NotFoundError, match="Evaluate it there first"):
        resolve("bot:1.1.0", state, **on_it)


def test_an_adapter_in_gguf_is_served_on_the_file_that_it_names_once_it_was_evaluated_there(state):
    update = adapter("update", "1.0.0", Digest.of(b"update")).model_copy(update={"parameters": {"weights": "gguf"}})
    state = after(state, update)
    assert "update" not in served_models(state, base_name="tiny", base_digest=BASE)
    with pytest.raises(NotFoundError, match=r"Evaluate it there first: .*--model update:1.0.0 --base-model tiny"):
        target(state, "update")
    state = after(state, MetricsRecorded(model="update", version="1.0.0", metrics={"evaluated_on": {BASE: MEASURED}}))
    assert target(state, "update").ref == "update:1.0.0"


def test_an_evaluation_on_a_model_of_other_origin_lets_no_adapter_in(state):
    stranger = Digest.of(b"stranger")
    state = after(
        state,
        quantized("other-int4", "1.0.0", stranger, OTHER),
        MetricsRecorded(model="bot", version="1.0.0", metrics={"evaluated_on": {stranger: MEASURED}}),
    )
    with pytest.raises(NotFoundError, match="registered as adapter"):
        resolve("bot", state, base_name="other-int4", base_digest=stranger)
