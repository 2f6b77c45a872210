"""One look at the log serves all who ask and all who wait."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llamafarm_ray.errors import StorageError
from llamafarm_ray.registry.log_watch import LogWatch

LONG_S = 60.0


class Log:
    """A log whose looks are counted, and can be held up."""

    def __init__(self):
        self.num_looks = 0
        self.free = threading.Event()
        self.free.set()
        self.error = None
        self.began = threading.Event()

    def refresh(self):
        self.num_looks += 1
        self.began.set()
        self.free.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def log():
    return Log()


def watched(log, scenario, poll_s=LONG_S):
    """Run a scenario with a watch of a log."""
    with ThreadPoolExecutor(4) as threads:
        return asyncio.run(scenario(LogWatch(log.refresh, threads, poll_s)))


async def started(*calls):
    """Start calls, and let them run until they wait."""
    tasks = [asyncio.create_task(call) for call in calls]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


def test_who_asks_during_a_look_gets_one_that_began_later_and_shares_it(log):
    async def scenario(watch):
        log.free.clear()
        first = await started(watch.look())
        await asyncio.to_thread(log.began.wait)
        others = await started(*(watch.look() for _ in range(100)))
        assert log.num_looks == 1
        log.free.set()
        await asyncio.gather(*first, *others)
        assert log.num_looks == 2

    watched(log, scenario)


def test_news_wake_all_who_wait_and_nobody_after_them(log):
    async def scenario(watch):
        waiting = await started(*(watch.wait(LONG_S) for _ in range(100)))
        await asyncio.to_thread(watch.announce)
        await asyncio.gather(*waiting)
        (later,) = await started(watch.wait(LONG_S))
        assert not later.done()
        later.cancel()
        assert log.num_looks == 0

    watched(log, scenario)


def test_while_somebody_waits_the_log_is_looked_at_once_for_all_and_then_no_more(log):
    async def scenario(watch):
        waiting = await started(*(watch.wait(0.3) for _ in range(100)))
        await asyncio.gather(*waiting)
        assert 1 <= log.num_looks <= 300, "100 that look for themselves look 3,000 times"
        await asyncio.wait({watch._poller})

    watched(log, scenario, poll_s=0.01)


def test_an_unreadable_log_is_an_error_for_all_who_ask_and_wait_and_later_it_is_none(log):
    async def scenario(watch):
        log.error = StorageError("away")
        for calls in ([watch.look(), watch.look()], [watch.wait(LONG_S), watch.wait(LONG_S)]):
            assert await asyncio.gather(*calls, return_exceptions=True) == [log.error] * 2
        log.error = None
        await watch.look()
        await watch.wait(0.05)

    watched(log, scenario, poll_s=0.01)


def test_a_store_that_is_away_is_waited_for_once(log):
    async def scenario(watch):
        log.free.clear()
        looking = await started(watch.look())
        await asyncio.to_thread(log.began.wait)
        looking += await started(watch.look(), watch.look())
        log.error = StorageError("away")
        log.free.set()
        assert await asyncio.gather(*looking, return_exceptions=True) == [log.error] * 3
        assert log.num_looks == 1
        log.error = None
        await watch.look()

    watched(log, scenario)


def test_a_caller_that_gives_up_takes_nobody_along(log):
    async def scenario(watch):
        log.free.clear()
        looking = await started(watch.look(), watch.look())
        looking[0].cancel()
        log.free.set()
        await looking[1]

    watched(log, scenario)
