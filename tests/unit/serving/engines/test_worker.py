"""Answers take turns on one thread, the event loop goes on meanwhile, and who leaves ends the work."""

import asyncio
import threading
import time

import pytest
from patience import patience

from llamafarm_ray.serving.engines.worker import Worker


async def until(condition, seconds=10.0):
    async with asyncio.timeout(patience(seconds)):
        while not condition():  # noqa: ASYNC110 - of a thread that tells nobody
            await asyncio.sleep(0.001)


def test_jobs_take_turns_a_step_at_a_time():
    order = []
    may_start = threading.Event()

    def steps(name, count):
        may_start.wait(patience(10))
        for number in range(count):
            order.append(f"{name}{number}")
            yield number

    async def collect(worker, name, count):
        return [step async for step in worker.run(lambda: steps(name, count))]

    async def scenario():
        worker = Worker("test")
        tasks = [asyncio.create_task(collect(worker, *job)) for job in (("long", 4), ("short", 2))]
        await until(lambda: worker.num_jobs == 2)
        may_start.set()
        assert await asyncio.gather(*tasks) == [[0, 1, 2, 3], [0, 1]]

    asyncio.run(scenario())
    assert order == ["long0", "short0", "long1", "short1", "long2", "long3"]


def test_the_event_loop_goes_on_while_a_step_is_computed():
    may_end = threading.Event()

    def steps():
        assert may_end.wait(patience(10))  # set by the event loop, which must not be the one that waits
        yield 1

    async def scenario():
        asyncio.get_running_loop().call_later(0.01, may_end.set)
        return [step async for step in Worker("test").run(steps)]

    assert asyncio.run(scenario()) == [1]


def test_what_a_step_raises_reaches_who_waits_and_the_thread_lives():
    def breaks():
        yield 1
        raise ValueError("no")

    async def scenario():
        worker = Worker("test")
        steps = worker.run(breaks)
        assert await anext(steps) == 1
        with pytest.raises(ValueError, match="no"):
            await anext(steps)
        assert [step async for step in worker.run(lambda: iter([2, 3]))] == [2, 3]
        await until(lambda: worker.num_jobs == 0)

    asyncio.run(scenario())


def test_closing_ends_the_work():
    computed, closed = [], []

    def endless():
        try:
            while True:
                computed.append(1)
                yield 1
                time.sleep(0.001)
        finally:
            closed.append(1)

    async def scenario():
        worker = Worker("test")
        stream = worker.run(endless)
        await anext(stream)
        await stream.aclose()
        await until(lambda: worker.num_jobs == 0)
        num_computed = len(computed)
        await asyncio.sleep(0.02)
        assert len(computed) == num_computed
        assert closed == [1]

    asyncio.run(scenario())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_ended_is_told_of():
    def leaving():
        raise SystemExit
        yield

    async def collect(worker):
        return [step async for step in worker.run(leaving)]

    async def scenario():
        worker = Worker("test")
        assert not worker.is_dead
        asking = asyncio.create_task(collect(worker))
        await until(lambda: worker.is_dead)
        asking.cancel()

    asyncio.run(scenario())
