"""An engine has the adapters that are needed, each loaded once, and none goes while a request uses it."""

import asyncio
import random
from collections import Counter

import pytest
import virtual_time
from adapter_pools import Replica, settled, target

from llamafarm_ray.errors import IntegrityError, UserError
from llamafarm_ray.serving.adapters.desired_state import Need
from llamafarm_ray.serving.adapters.protocols import NotNumbersError
from llamafarm_ray.serving.routing.resolution import Target


def test_a_hundred_first_requests_make_one_load():
    async def scenario():
        replica = Replica()
        replica.engine.may_load.clear()
        waiting = [asyncio.create_task(replica.ask("a")) for _ in range(100)]
        await settled(lambda: replica.pool.num_loads)
        assert not any(task.done() for task in waiting)
        assert replica.pool.loaded == []
        replica.engine.may_load.set()
        await asyncio.gather(*waiting)
        await replica.ask("a")
        assert replica.pool.num_loads == {"a:1.0.0#abc": 1}
        assert replica.pool.loaded == ["a:1.0.0#abc"]
        assert replica.files.held == {"a:1.0.0#abc": 1}

    virtual_time.run(scenario())


@pytest.mark.parametrize("what", ["files", "engine"])
def test_a_failed_load_reaches_every_waiter_and_is_tried_anew(what):
    async def scenario():
        replica = Replica()
        if what == "files":
            replica.files.failures = 1
        else:
            replica.engine.load_failures = 1
        results = await asyncio.gather(*(replica.ask("a") for _ in range(5)), return_exceptions=True)
        assert {type(result) for result in results} == {IntegrityError if what == "files" else UserError}
        await settled(lambda: not replica.files.held["a:1.0.0#abc"])
        await replica.ask("a")
        assert replica.held == "a"

    virtual_time.run(scenario())


def test_a_version_that_was_taken_out_gets_no_request_and_no_alias():
    async def scenario():
        replica = Replica()
        await replica.ask("a")
        replica.engine.taken_out.add("a:1.0.0#abc", "it computed NaN.")
        for attempt in (replica.ask("a"), replica.pool.load(target("a"))):
            with pytest.raises(NotNumbersError, match=r"a:1\.0\.0#abc was taken out: it computed NaN"):
                await attempt
        await replica.ask("b")

    virtual_time.run(scenario())


def test_a_caller_that_goes_away_does_not_stop_the_load_of_others():
    async def scenario():
        replica = Replica()
        replica.engine.may_load.clear()
        first, second = (asyncio.create_task(replica.ask("a")) for _ in range(2))
        await settled(lambda: replica.pool.num_loads)
        first.cancel()
        replica.engine.may_load.set()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first

    virtual_time.run(scenario())


def test_the_files_of_a_load_that_all_callers_left_are_let_go_with_it():
    async def scenario():
        replica = Replica()
        replica.engine.may_load.clear()
        replica.engine.load_failures = 1
        caller = asyncio.create_task(replica.ask("a"))
        await settled(lambda: replica.pool.num_loads)
        caller.cancel()
        replica.engine.may_load.set()
        await settled(lambda: not replica.pool._adapters)
        assert not replica.files.held["a:1.0.0#abc"]

    virtual_time.run(scenario())


def test_the_base_model_needs_no_load():
    async def scenario():
        replica = Replica()
        async with replica.pool.use(Target("base", "base")):
            pass
        await replica.pool.load(Target("base", "base"))
        assert (replica.held, replica.pool.num_loads) == ("", {})

    virtual_time.run(scenario())


def test_the_least_recently_used_goes_and_its_files_with_it():
    async def scenario():
        replica = Replica(in_use=1, loaded=3)
        for name in "abcabdce":
            await replica.ask(name)
        assert replica.held == "dce"
        assert +replica.files.held == Counter({"d:1.0.0#abc": 1, "c:1.0.0#abc": 1, "e:1.0.0#abc": 1})
        assert [told for told in replica.watch.told if told[0] != "loaded"] == [
            ("room", "c", 2),
            ("room", "a", 2),
            ("room", "b", 2),
        ]
        assert replica.engine.most_held == 3

    virtual_time.run(scenario())


def test_what_is_in_use_stays_though_it_is_the_oldest():
    async def scenario():
        replica = Replica(in_use=2, loaded=3)
        async with replica.pool.use(target("a")):
            for name in "bcde":
                await replica.ask(name)
            assert replica.held == "ade"

    virtual_time.run(scenario())


def test_a_version_that_lost_its_alias_goes_with_its_last_request():
    async def scenario():
        replica = Replica()
        replica.want(a=Need.ALIAS)
        async with replica.pool.use(target("a")):
            await replica.pool.load(target("b"), hold_s=60)
            replica.want(b=Need.ALIAS)
            for _ in range(20):
                await asyncio.sleep(0)
            assert replica.held == "ab"
        await settled(lambda: replica.held == "b")
        assert replica.watch.told[-1] == ("unneeded", "a", 1)

    virtual_time.run(scenario())


def test_a_version_that_is_only_asked_for_by_its_own_name_stays_while_there_is_room():
    async def scenario():
        replica = Replica()
        await replica.ask("a")
        replica.want(b=Need.ALIAS)
        await replica.ask("b")
        assert replica.held == "ab"

    virtual_time.run(scenario())


@pytest.mark.parametrize("need", [Need.NONE, Need.ALIAS])
def test_a_retired_version_goes_at_once(need):
    async def scenario():
        replica = Replica()
        replica.want(a=need)
        await replica.ask("a")
        replica.want(a=Need.GONE)
        await settled(lambda: replica.held == "")

    virtual_time.run(scenario())


def test_a_rollouts_candidate_goes_when_it_lost():
    async def scenario():
        replica = Replica()
        replica.want(a=Need.ALIAS, b=Need.CANDIDATE)
        await replica.ask("a")
        await replica.pool.load(target("b"))
        replica.want(a=Need.ALIAS)
        await settled(lambda: replica.held == "a")

    virtual_time.run(scenario())


def test_what_was_loaded_for_a_swap_stays_for_it_before_others():
    async def scenario():
        replica = Replica(in_use=1, loaded=2)
        await replica.pool.load(target("a"), hold_s=60)
        for name in "bcd":
            await replica.ask(name)
        assert replica.held == "ad"
        await asyncio.sleep(59)
        assert replica.held == "ad"
        await asyncio.sleep(2)
        assert replica.held == "d"  # the swap never came

    virtual_time.run(scenario())


def test_a_swap_and_the_version_that_takes_over_wait_for_no_request_under_way():
    async def scenario():
        replica = Replica(in_use=2, loaded=4)
        replica.want(a=Need.ALIAS, b=Need.ALIAS)
        async with replica.pool.use(target("a")), replica.pool.use(target("b")):
            await replica.ask_soon(replica.pool.load(target("c"), hold_s=60))
            replica.want(c=Need.ALIAS, b=Need.ALIAS)
            await replica.ask_soon(replica.ask("c"))
            async with replica.pool.use(target("c")):
                late = asyncio.create_task(replica.ask("d"))
                await asyncio.sleep(0.01)
                assert not late.done()  # the spare slot is taken
            await replica.ask_soon(late)

    virtual_time.run(scenario())


def test_the_version_that_takes_over_is_let_in_when_the_alias_moves_though_it_was_not_loaded_before():
    async def scenario():
        replica = Replica(in_use=1)
        replica.want(a=Need.ALIAS)
        async with replica.pool.use(target("a")):
            early = asyncio.create_task(replica.ask("b"))  # of a router that knows before the replica does
            await asyncio.sleep(0.01)
            assert not early.done()
            replica.want(b=Need.ALIAS)
            await replica.ask_soon(early)

    virtual_time.run(scenario())


def test_who_asks_for_an_adapter_that_is_about_to_go_keeps_it():
    async def scenario():
        replica = Replica()
        replica.want(a=Need.ALIAS)
        await replica.ask("a")
        replica.engine.may_load.clear()
        other = asyncio.create_task(replica.ask("b"))
        await settled(lambda: replica.pool.num_loads["b:1.0.0#abc"])
        replica.want()
        await asyncio.sleep(0.5)  # it has to wait for the load
        async with replica.pool.use(target("a")):
            replica.engine.may_load.set()
            await other
            await asyncio.sleep(0.1)
            assert "a" in replica.held
        await settled(lambda: replica.held == "b")

    virtual_time.run(scenario())


def test_more_than_there_is_room_for_goes_when_it_is_idle_again():
    async def scenario():
        replica = Replica(in_use=1, loaded=1)
        async with replica.pool.use(target("a")):
            await replica.ask_soon(replica.pool.load(target("b"), hold_s=60))
            assert replica.held == "ab"
        await settled(lambda: replica.held == "b")

    virtual_time.run(scenario())


def test_an_adapter_that_can_not_be_unloaded_answers_on_and_is_tried_again(caplog):
    async def scenario():
        replica = Replica()
        replica.want(a=Need.ALIAS)
        await replica.ask("a")
        replica.engine.unload_failures = 1
        replica.want()
        await settled(lambda: "can't be unloaded now: the worker does not answer" in caplog.text)
        await replica.ask("a")
        await settled(lambda: replica.held == "")
        assert replica.pool.num_loads["a:1.0.0#abc"] == 1

    virtual_time.run(scenario())


def test_room_is_made_with_the_next_one_where_the_first_can_not_be_unloaded():
    async def scenario():
        replica = Replica(in_use=1, loaded=2)
        for name in "ab":
            await replica.ask(name)
        replica.engine.unload_failures = 1
        await replica.ask("c")
        assert replica.held == "ac"

    virtual_time.run(scenario())


def test_who_asks_for_an_adapter_that_is_being_unloaded_has_it_loaded_again():
    async def scenario():
        replica = Replica()
        replica.want(a=Need.ALIAS)
        await replica.ask("a")
        replica.engine.unload_s = 0.1
        replica.want()
        await settled(lambda: not replica.pool.loaded)
        assert replica.held == "a"  # the engine is still at it
        await replica.ask("a")
        assert replica.pool.num_loads["a:1.0.0#abc"] == 2

    virtual_time.run(scenario())


def test_requests_that_a_router_sent_to_the_former_version_do_not_load_it_again():
    async def scenario():
        replica = Replica()
        replica.want(a=Need.ALIAS)
        await replica.ask("a")
        replica.want()
        await asyncio.sleep(0.2)
        await replica.ask("a")
        assert replica.pool.num_loads["a:1.0.0#abc"] == 1
        await settled(lambda: replica.held == "")

    virtual_time.run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_asked_in_whatever_order_is_loaded_when_it_is_asked_and_little_else(seed):
    """The engine fails the test where a request finds its adapter missing, or loses it."""

    async def scenario():
        draw = random.Random(seed)
        names = [chr(ord("a") + number) for number in range(12)]
        replica = Replica(in_use=2, loaded=4)

        async def client():
            for _ in range(15):
                name = draw.choices(names, [1 / (rank + 1) for rank in range(len(names))])[0]
                asking = asyncio.create_task(replica.ask(name, draw.randrange(6)))
                if draw.random() < 0.1:
                    await asyncio.sleep(0)
                    asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                if not asking.cancelled():
                    asking.result()

        async def registry():
            for _ in range(60):
                replica.want(**{name: draw.choice(list(Need)) for name in draw.sample(names, 4)})
                replica.engine.unload_failures = draw.randrange(2)
                if draw.random() < 0.3:
                    await replica.pool.load(target(draw.choice(names)), hold_s=draw.choice([0, 60]))
                for _ in range(draw.randrange(30)):
                    await asyncio.sleep(0)

        await asyncio.gather(*(client() for _ in range(10)), registry())
        replica.engine.unload_failures = 0
        replica.want(**dict.fromkeys(names, Need.GONE))
        await settled(lambda: not replica.engine.held and not replica.pool._adapters, 2)
        assert not +replica.files.held
        assert replica.engine.most_held <= 5  # one more where one could not be unloaded

    virtual_time.run(scenario())
