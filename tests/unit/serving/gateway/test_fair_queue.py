"""Keys take turns by the tokens they were served: a flood starves nobody, and nothing idles while somebody waits."""

import asyncio
import dataclasses
from collections import Counter

import pytest
import virtual_time

from llamafarm_ray.errors import InputError
from llamafarm_ray.serving.gateway.fair_queue import FairQueue
from llamafarm_ray.serving.http.errors import LimitError

SLOTS = 4
SERVICE_S = 0.1
FLOOD = "flood"
CALM = ("ann", "ben", "eve")


def never():
    return asyncio.get_running_loop().create_future()


@dataclasses.dataclass
class Traffic:
    """What came of a simulated load: served requests, refused ones, and the seconds that each served one took."""

    served: Counter = dataclasses.field(default_factory=Counter)
    refused: Counter = dataclasses.field(default_factory=Counter)
    latencies: dict = dataclasses.field(default_factory=dict)

    def p99(self, key):
        return sorted(self.latencies[key])[int(0.99 * len(self.latencies[key]))]


def load(clients, *, seconds=120.0, costs=None, max_waiting=1024):
    """Clients of each key, each asking again as soon as it is answered, on an engine of 4 slots.

    A request costs 10 tokens, or what ``costs`` says for its key, and takes 0.1 s for each 10.
    """
    cost = (costs or dict.fromkeys(clients, 10.0)).__getitem__
    traffic = Traffic(latencies={key: [] for key in clients})

    async def client(turns, key, end):
        clock = asyncio.get_running_loop().time
        while clock() < end:
            asked = clock()
            try:
                async with turns.turn(key, 1.0, never) as turn:
                    await asyncio.sleep(SERVICE_S * cost(key) / 10.0)
                    turn.cost = cost(key)
            except LimitError:
                traffic.refused[key] += 1
                await asyncio.sleep(SERVICE_S)
                continue
            traffic.served[key] += 1
            traffic.latencies[key].append(clock() - asked)

    async def scenario():
        turns = FairQueue(SLOTS, max_waiting, 60.0)
        end = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(client(turns, key, end) for key, count in clients.items() for _ in range(count)))
        assert turns.num_waiting == 0
        assert turns._num_free == SLOTS

    virtual_time.run(scenario())
    return traffic


def jain(values):
    """Jain's fairness index: 1 where all have the same, 1/n where one has all (https://arxiv.org/abs/cs/9809099)."""
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


def test_a_flood_of_ten_times_as_much_gets_no_more_than_the_others():
    traffic = load({FLOOD: 40, **dict.fromkeys(CALM, 4)})
    assert jain([traffic.served[key] for key in (FLOOD, *CALM)]) >= 0.99
    assert sum(traffic.served.values()) == pytest.approx(120 * SLOTS / SERVICE_S, rel=0.02)


def test_first_come_first_served_would_be_unfair():
    """The measure tells: by arrival alone the flood would get ten times as much."""
    assert jain([40, 4, 4, 4]) < 0.5


def test_who_asks_little_waits_little_beside_a_flood():
    alone = load(dict.fromkeys(CALM, 1))
    flooded = load({FLOOD: 40, **dict.fromkeys(CALM, 1)})
    for key in CALM:
        assert flooded.p99(key) <= 3 * alone.p99(key)
        assert flooded.served[key] >= 0.45 * alone.served[key]


def test_a_flood_that_pauses_puts_nobody_behind():
    """What a flood has under way when it stops is no debt of those who come meanwhile."""
    waits = []

    async def scenario():
        clock = asyncio.get_running_loop().time
        turns = FairQueue(SLOTS, 1024, 60.0)

        async def ask(key):
            asked = clock()
            async with turns.turn(key, 1.0, never) as turn:
                if key == "ann":
                    waits.append(clock() - asked)
                await asyncio.sleep(SERVICE_S)
                turn.cost = 50.0

        async def flood():
            for _ in range(5):
                await asyncio.gather(*(ask(FLOOD) for _ in range(200)))
                await asyncio.sleep(1.0)

        async def calm():
            for _ in range(100):
                await ask("ann")
                await asyncio.sleep(0.2)

        await asyncio.gather(flood(), calm())

    virtual_time.run(scenario())
    assert len(waits) == 100
    assert max(waits) <= 2 * SERVICE_S


def test_tokens_count_not_requests():
    """Requests four times as long come a quarter as often."""
    costs = {"long": 40.0, "short": 10.0}
    traffic = load({"long": 8, "short": 8}, costs=costs)
    assert jain([traffic.served[key] * costs[key] for key in costs]) >= 0.99


def test_a_flood_that_fills_the_queue_keeps_nobody_out():
    traffic = load({FLOOD: 40, **dict.fromkeys(CALM, 4)}, max_waiting=16)
    assert traffic.refused[FLOOD] > 0
    assert sum(traffic.refused[key] for key in CALM) <= 0.02 * sum(traffic.served[key] for key in CALM)
    assert jain([traffic.served[key] for key in (FLOOD, *CALM)]) >= 0.95


def test_being_idle_saves_up_no_turns():
    order = []

    async def scenario():
        turns = FairQueue(1, 100, 60.0)

        async def one(key):
            async with turns.turn(key, 1.0, never):
                order.append(key)
                await asyncio.sleep(1.0)

        await asyncio.gather(*(one("busy") for _ in range(50)))
        order.clear()
        await asyncio.gather(*(one(key) for key in ("busy", "idle") * 5))

    virtual_time.run(scenario())
    assert Counter(order[:4]) == {"busy": 2, "idle": 2}


def test_the_engine_never_gets_more_than_it_works_on_and_never_stands_idle():
    running, most = 0, []

    async def scenario():
        nonlocal running
        turns = FairQueue(3, 100, 60.0)

        async def one(key):
            nonlocal running
            async with turns.turn(key, 1.0, never):
                running += 1
                most.append(running)
                await asyncio.sleep(1.0)
                running -= 1

        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*(one(key) for key in "abc" * 3))
        assert asyncio.get_running_loop().time() - begun == pytest.approx(3.0)

    virtual_time.run(scenario())
    assert max(most) == 3


def queue_of_one(second):
    """What becomes of a request that has to wait behind one of 10 s, and whether the slot is free in the end."""

    async def scenario():
        turns = FairQueue(1, 1, 5.0)

        async def first():
            async with turns.turn("a", 1.0, never):
                await asyncio.sleep(10.0)

        running = asyncio.create_task(first())
        await asyncio.sleep(0)
        try:
            await second(turns)
        finally:
            await running
            async with turns.turn("c", 1.0, never):
                assert turns.num_waiting == 0

    virtual_time.run(scenario())


def test_who_waits_too_long_is_told_when_to_ask_again():
    async def second(turns):
        with pytest.raises(LimitError, match=r"waited for 5 s") as refused:
            async with turns.turn("b", 1.0, never):
                raise AssertionError
        assert refused.value.retry_after_s > 0

    queue_of_one(second)


def test_a_full_queue_refuses_the_newest_of_who_has_the_most():
    async def second(turns):
        async def wait(key):
            async with turns.turn(key, 1.0, never):
                return key

        with pytest.raises(LimitError, match="1 requests wait already"):
            await asyncio.gather(wait("a"), wait("a"))

    queue_of_one(second)


def test_a_client_that_goes_away_leaves_the_queue():
    async def second(turns):
        left = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1.0, left.set_result, None)
        with pytest.raises(InputError, match="went away"):
            async with turns.turn("b", 1.0, lambda: left):
                raise AssertionError
        assert asyncio.get_running_loop().time() == pytest.approx(1.0)
        assert turns.num_waiting == 0

    queue_of_one(second)


@pytest.mark.parametrize("cancel_at", [1.0, 10.0])
def test_a_cancelled_request_loses_no_slot(cancel_at):
    """Also where its turn came in the very moment it was cancelled."""

    async def scenario():
        turns = FairQueue(1, 10, 60.0)

        async def one(key, seconds):
            async with turns.turn(key, 1.0, never):
                await asyncio.sleep(seconds)

        running = asyncio.create_task(one("a", 10.0))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(one("b", 10.0))
        loop = asyncio.get_running_loop()
        loop.call_at(cancel_at, waiting.cancel)
        running.add_done_callback(lambda _: waiting.cancel())
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await running
        assert (turns._num_free, turns.num_waiting) == (1, 0)

    virtual_time.run(scenario())


def test_an_engine_that_fails_gives_its_slot_back():
    async def scenario():
        turns = FairQueue(1, 1, 1.0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with turns.turn("a", 1.0, never):
                    raise ZeroDivisionError
        assert turns._num_free == 1

    virtual_time.run(scenario())


def test_the_virtual_clock_keeps_the_order_of_things():
    order = []

    async def scenario():
        async def at(seconds):
            await asyncio.sleep(seconds)
            order.append(seconds)

        await asyncio.gather(*map(at, (3.0, 1.0, 2.0)))
        return asyncio.get_running_loop().time()

    assert virtual_time.run(scenario()) == pytest.approx(3.0)
    assert order == [1.0, 2.0, 3.0]
