"""Adapters take turns at the engine's slots: nobody is kept out, and a version that takes over waits for nobody."""

import asyncio
import contextlib

import pytest
import virtual_time

from llamafarm_ray.serving.adapters.slots import AdapterSlots
from llamafarm_ray.serving.http.errors import LimitError


class Hall:
    """Seats, and requests that sit until they are told to go."""

    def __init__(self, num_slots, passing=(), timeout_s=60.0):
        self.passing = set(passing)
        self.slots = AdapterSlots(num_slots, timeout_s=timeout_s, is_passing=self.passing.__contains__)
        self.sitting = []
        self._go = {}
        self._tasks = []

    async def ask(self, *requests):
        """Have requests come, each named by its adapter and a number: ``a1``."""
        for request in requests:
            self._go[request] = asyncio.Event()
            self._tasks.append(asyncio.create_task(self._sit(request), name=request))
        await settled()
        return self._tasks[-1]

    async def end(self, *requests):
        for request in requests:
            self._go[request].set()
        await settled()

    async def _sit(self, request):
        async with self.slots.slot(request[0]):
            self.sitting.append(request)
            try:
                await self._go[request].wait()
            finally:
                self.sitting.remove(request)


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


def test_as_many_adapters_as_there_are_slots_and_any_number_of_requests_for_each():
    async def scenario():
        hall = Hall(2)
        await hall.ask("a1", "b1", "a2", "b2", "c1", "a3")
        assert hall.sitting == ["a1", "b1", "a2", "b2", "a3"]
        await hall.end("b1")
        assert "c1" not in hall.sitting
        await hall.end("b2")
        assert hall.sitting == ["a1", "a2", "a3", "c1"]

    virtual_time.run(scenario())


def test_a_busy_adapter_does_not_keep_others_out_for_good():
    async def scenario():
        hall = Hall(1)
        await hall.ask("a1", "b1", "c1", "b2")
        await asyncio.sleep(0.2)
        await hall.ask("a2")
        assert hall.sitting == ["a1"]
        await hall.end("a1")
        assert hall.sitting == ["b1", "b2"]  # who wait for the same adapter go together
        await hall.ask("b3")
        assert hall.sitting == ["b1", "b2"]
        await hall.end("b1", "b2")
        assert hall.sitting == ["c1"]
        await hall.end("c1")
        assert hall.sitting == ["a2"]
        await hall.end("a2")
        assert hall.sitting == ["b3"]

    virtual_time.run(scenario())


@pytest.mark.parametrize("passing", ["a", "b"])
def test_the_version_that_takes_over_and_the_one_that_leaves_share_the_spare_slot(passing):
    async def scenario():
        hall = Hall(1, passing)
        await hall.ask("a1", "c1", "b1")
        assert set(hall.sitting) == ({"a1", "c1"} if passing == "a" else {"a1", "b1"})
        await hall.ask("d1")
        assert len(hall.sitting) == 2  # there is one slot to spare

    virtual_time.run(scenario())


def test_who_waits_is_let_in_when_an_adapter_begins_to_leave():
    async def scenario():
        hall = Hall(1)
        await hall.ask("a1", "b1")
        assert hall.sitting == ["a1"]
        hall.passing.add("a")
        hall.slots.let_in()
        await settled()
        assert hall.sitting == ["a1", "b1"]

    virtual_time.run(scenario())


def test_who_goes_away_while_waiting_keeps_nobody_out():
    async def scenario():
        hall = Hall(1)
        await hall.ask("a1")
        gone = await hall.ask("b1")
        await asyncio.sleep(1)
        await hall.ask("a2")
        assert hall.sitting == ["a1"]
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        await settled()
        assert hall.sitting == ["a1", "a2"]
        await hall.end("a1", "a2")
        assert not hall.slots.is_taken("a")
        assert not hall.slots.is_taken("b")

    virtual_time.run(scenario())


def test_who_goes_away_as_it_is_let_in_gives_the_slot_back():
    async def scenario():
        hall = Hall(1)
        await hall.ask("a1")
        gone = await hall.ask("b1")
        hall._go["a1"].set()
        await asyncio.sleep(0)
        assert hall.slots.is_taken("b")
        assert "b1" not in hall.sitting  # it does not know yet
        gone.cancel()
        await settled()
        await hall.ask("c1")
        assert hall.sitting == ["c1"]

    virtual_time.run(scenario())


def test_who_waits_for_too_long_is_refused_and_told_when_to_ask_again():
    async def scenario():
        hall = Hall(1, timeout_s=0.02)
        await hall.ask("a1")
        with pytest.raises(LimitError, match=r"0\.02 s, and 1 other adapters are in use.*max_loras") as refused:
            await (await hall.ask("b1"))
        assert refused.value.retry_after_s > 0
        await hall.ask("a2")
        assert hall.sitting == ["a1", "a2"]

    virtual_time.run(scenario())
