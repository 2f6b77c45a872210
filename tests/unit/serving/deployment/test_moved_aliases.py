"""A replica follows the aliases of what it has loaded, as the registry's state has them, and no others."""

import asyncio

import pytest
import virtual_time
from adapter_pools import Replica, settled
from fake_gateway import BASE, adapter, state_of

from llamafarm_ray.registry.events import AliasMoved, AliasRemoved, RolloutStarted
from llamafarm_ray.registry.rollouts import CanaryPlan
from llamafarm_ray.serving.adapters.desired_state import aliases_of, need_of
from llamafarm_ray.serving.routing.resolution import target_of
from llamafarm_ray.types import Digest

OLD, NEW, NEWER, ELSEWHERE = "1.0.0", "1.1.0", "1.2.0", "1.3.0"
VERSIONS = (
    *(adapter("bot", version, Digest.of(version.encode())) for version in (OLD, NEW, NEWER)),
    adapter("bot", ELSEWHERE, Digest.of(b"4"), base=Digest.of(b"another base")),
)


def to(version, alias="production"):
    return AliasMoved(model="bot", alias=alias, version=version)


def removed(alias):
    return AliasRemoved(model="bot", alias=alias)


def rolled_out(candidate, alias, baseline):
    plan = CanaryPlan(steps=({"percent": 50, "dwell_s": 1},))
    return RolloutStarted(model="bot", alias=alias, number=1, baseline=baseline, candidate=candidate, plan=plan)


class Following(Replica):
    """A replica that reads what is needed from a registry's state."""

    def __init__(self, *events, **room):
        self.events = [*VERSIONS, *events]
        self.state = state_of(*self.events)
        super().__init__(**room)

    def target(self, name):
        return target_of(self.state.version("bot", name))

    def need_of(self, target):
        return need_of(target, self.state)

    def aliases_of(self, target):
        return aliases_of(target, self.state, BASE)

    def see(self, *events):
        """Take in some of the registry's events at once."""
        self.events += events
        self.state = state_of(*self.events)
        self.pool.registry_changed()

    @property
    def loads(self):
        """Every version that was ever loaded."""
        return sorted(_number(name) for name in self.pool.num_loads)

    @property
    def held(self):
        return sorted(_number(name) for name in self.engine.held)


def _number(engine_name):
    return engine_name.partition("#")[0].partition(":")[2]


@pytest.mark.parametrize(
    ("before", "seen", "loads", "held"),
    [
        pytest.param([to(OLD)], [to(NEW)], [OLD, NEW], [NEW], id="moved"),
        pytest.param([to(OLD), to(OLD, "staging")], [to(NEW)], [OLD, NEW], [OLD, NEW], id="still staging"),
        pytest.param(
            [to(OLD), to(NEWER, "staging"), rolled_out(OLD, "staging", NEWER)],
            [to(NEW)],
            [OLD, NEW],
            [OLD, NEW],
            id="rollout candidate",
        ),
        pytest.param(
            [to(OLD), to(NEWER), to(OLD, "staging")], [to(NEW, "staging")], [OLD, NEW], [NEW], id="left staging only"
        ),
        pytest.param([to(OLD)], [to(NEW), to(NEWER)], [OLD, NEWER], [NEWER], id="moved twice between two looks"),
        pytest.param([to(OLD)], [to(NEW), to(OLD)], [OLD], [OLD], id="moved and back between two looks"),
        pytest.param([to(OLD), to(OLD, "staging")], [removed("staging")], [OLD], [OLD], id="one alias removed"),
        pytest.param(
            [to(OLD, "staging"), to(NEWER, "staging"), to(OLD)], [removed("production")], [OLD], [], id="alias removed"
        ),
        pytest.param([to(OLD)], [removed("production"), to(NEW)], [OLD, NEW], [NEW], id="removed and set anew"),
        pytest.param([to(OLD)], [to(ELSEWHERE)], [OLD], [], id="to what another base serves"),
        pytest.param([to(NEW)], [to(NEWER)], [OLD], [OLD], id="of what is not loaded here"),
    ],
)
def test_what_an_alias_that_left_points_at_now_is_loaded_and_nothing_else(before, seen, loads, held):
    async def scenario():
        replica = Following(*before)
        await replica.ask(OLD)
        replica.see(*seen)
        await asyncio.sleep(1)
        assert (replica.loads, replica.held) == (loads, held)

    virtual_time.run(scenario())


def test_each_move_is_followed():
    async def scenario():
        replica = Following(to(OLD), to(OLD, "staging"))
        await replica.ask(OLD)
        for version in (NEW, NEWER, OLD):
            replica.see(to(version))
            await settled(lambda version=version: version in replica.held)
        await settled(lambda: replica.held == [OLD])
        replica.see(to(NEW, "staging"))
        await settled(lambda: replica.held == [OLD, NEW])

    virtual_time.run(scenario())


def test_an_alias_that_leaves_while_what_it_pointed_at_is_being_loaded_is_followed():
    async def scenario():
        replica = Following(to(OLD))
        replica.engine.may_load.clear()
        asking = asyncio.create_task(replica.ask(OLD))
        await settled(lambda: replica.loads == [OLD])
        replica.see(to(NEW))
        await asyncio.sleep(0.1)
        replica.see(to(NEWER))  # NEW waits for its turn to be loaded
        replica.engine.may_load.set()
        await asking
        await settled(lambda: replica.held == [NEWER])
        assert replica.loads == [OLD, NEW, NEWER]

    virtual_time.run(scenario())


def test_what_takes_a_place_takes_no_busy_slot_and_is_tried_anew_where_it_is_refused(caplog):
    async def scenario():
        replica = Following(to(OLD), in_use=1, loaded=1)
        await replica.ask(OLD)
        async with replica.pool.use(replica.target(OLD)):
            replica.engine.load_failures = 1
            replica.see(to(NEW))
            await settled(lambda: "bot:1.1.0 can't be loaded: rank too high" in caplog.text)
            replica.engine.check(replica.target(OLD).engine_name)
        await settled(lambda: not replica.held)
        await replica.ask(NEW)
        assert replica.held == [NEW]

    virtual_time.run(scenario())


def test_whatever_an_engine_raises_where_nobody_waits_is_logged(caplog):
    async def scenario():
        replica = Following(to(OLD))
        await replica.ask(OLD)
        replica.engine.load_failures, replica.engine.refusal = 1, ValueError("no such kernel")
        replica.see(to(NEW))
        await settled(lambda: "bot:1.1.0 can't be loaded." in caplog.text)
        assert "ValueError: no such kernel" in caplog.text

    virtual_time.run(scenario())
