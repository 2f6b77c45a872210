"""What the registry wants of a version is read from its state."""

import pytest
from gate import BASE, ONE, TWO, adapter, state_of

from llamafarm_ray.registry import RegistryState
from llamafarm_ray.registry.events import AliasMoved, RolloutStarted, RolloutStopped, VersionRetired
from llamafarm_ray.registry.rollouts import CanaryPlan
from llamafarm_ray.serving.needs import Need, heirs_of, need_of
from llamafarm_ray.serving.resolution import target_of
from llamafarm_ray.types import Digest

TWO_VERSIONS = (
    adapter("bot", "1.0.0", ONE),
    adapter("bot", "1.1.0", TWO),
    AliasMoved(model="bot", alias="production", version="1.0.0"),
)


def needs(*events):
    state = state_of(*TWO_VERSIONS, *events)
    targets = [target_of(state_of(*TWO_VERSIONS).version("bot", number)) for number in ("1.0.0", "1.1.0")]
    return [need_of(target, state) for target in targets]


def started(**more):
    plan = CanaryPlan(steps=({"percent": 50, "dwell_s": 1},))
    of = {"model": "bot", "alias": "production", "number": 1}
    return RolloutStarted(**of, baseline="1.0.0", candidate="1.1.0", plan=plan, **more)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((), [Need.ALIAS, Need.NONE]),
        ((AliasMoved(model="bot", alias="production", version="1.1.0"),), [Need.NONE, Need.ALIAS]),
        ((AliasMoved(model="bot", alias="staging", version="1.1.0"),), [Need.ALIAS, Need.ALIAS]),
        ((started(),), [Need.ALIAS, Need.CANDIDATE]),
        ((started(), RolloutStopped(model="bot", alias="production", number=1)), [Need.ALIAS, Need.NONE]),
        ((VersionRetired(model="bot", version="1.1.0"),), [Need.ALIAS, Need.GONE]),
    ],
)
def test_a_version_is_needed_while_an_alias_or_a_rollout_names_it(events, expected):
    assert needs(*events) == expected


def test_a_version_that_the_registry_does_not_have_is_gone():
    assert need_of(target_of(state_of(*TWO_VERSIONS).version("bot", "1.0.0")), RegistryState()) is Need.GONE


def test_in_the_place_of_a_version_is_what_its_models_aliases_point_at_and_this_base_serves():
    moved = AliasMoved(model="bot", alias="production", version="1.1.0")
    elsewhere = AliasMoved(model="bot", alias="staging", version="1.2.0")  # nothing of the old one's
    state = state_of(*TWO_VERSIONS, adapter("bot", "1.2.0", Digest.of(b"3")), moved, elsewhere)
    old = target_of(state.version("bot", "1.0.0"))
    assert heirs_of(old, state, BASE) == [target_of(state.version("bot", "1.1.0"))]
    assert heirs_of(old, state, ONE) == []
    assert heirs_of(old, RegistryState(), BASE) == []
