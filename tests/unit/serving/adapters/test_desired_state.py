"""What the registry wants of a version is read from its state."""

import pytest
from fake_gateway import BASE, ONE, TWO, adapter, state_of

from llamafarm_ray.registry import RegistryState
from llamafarm_ray.registry.events import AliasMoved, RolloutStarted, RolloutStopped, VersionRetired
from llamafarm_ray.registry.rollouts import CanaryPlan
from llamafarm_ray.serving.adapters.desired_state import Need, aliases_of, need_of
from llamafarm_ray.serving.routing.resolution import target_of
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


def test_a_models_aliases_point_at_what_this_base_serves():
    moved = AliasMoved(model="bot", alias="production", version="1.1.0")
    other_base = adapter("bot", "1.2.0", Digest.of(b"3"), base=TWO)
    more = (AliasMoved(model="bot", alias="staging", version="1.2.0"), adapter("other", "1.0.0", ONE))
    state = state_of(*TWO_VERSIONS, other_base, moved, *more, AliasMoved(model="other", alias="dev", version="1.0.0"))
    old = target_of(state.version("bot", "1.0.0"))
    assert aliases_of(old, state, BASE) == {"production": target_of(state.version("bot", "1.1.0"))}
    assert aliases_of(old, state, TWO) == {"staging": target_of(state.version("bot", "1.2.0"))}
    assert aliases_of(old, RegistryState(), BASE) == {}
