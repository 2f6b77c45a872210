"""Whoever asks is told what was true after they asked, and a flood of questions makes a few reads."""

import asyncio

import pytest
import virtual_time

from llamafarm_ray.serving.deployment.shared_reads import SharedReads

READ_S = 0.05


class Source:
    """Something that grows, and a copy of it as of the last read."""

    def __init__(self, *, fails=False):
        self.value = self.known = self.num_reads = 0
        self.fails = fails
        self.reads = SharedReads(self.read, spacing_s=0.2)

    async def read(self):
        self.num_reads += 1
        begun = self.value
        await asyncio.sleep(READ_S)
        if self.fails:
            raise TimeoutError("the source does not answer")
        self.known = begun


@pytest.mark.parametrize("wait_s", [0, 0.01, 0.04, 0.06, 0.19, 0.3])
def test_a_caller_sees_what_was_written_before_it_asked_however_soon_after_another(wait_s):
    async def scenario():
        source = Source()
        source.value = 1
        first = asyncio.create_task(source.reads.read())
        await asyncio.sleep(wait_s)
        source.value = 2
        await source.reads.read()
        assert source.known == 2
        await first

    virtual_time.run(scenario())


def test_the_first_caller_waits_for_nothing_but_its_read():
    async def scenario():
        source, clock = Source(), asyncio.get_running_loop().time
        begun = clock()
        await source.reads.read()
        return clock() - begun

    assert virtual_time.run(scenario()) == pytest.approx(READ_S)


def test_a_flood_makes_five_reads_a_second():
    async def scenario():
        source = Source()

        async def ask(after_s):
            await asyncio.sleep(after_s)
            await source.reads.read()

        await asyncio.gather(*(ask(n / 100) for n in range(200)))
        return source.num_reads

    assert virtual_time.run(scenario()) == 11


def test_a_read_that_fails_is_told_to_all_who_wait_and_the_next_is_tried():
    async def scenario():
        source = Source(fails=True)
        failed = await asyncio.gather(*(source.reads.read() for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in failed] == [TimeoutError] * 3
        source.fails, source.value = False, 1
        await source.reads.read()
        return source.known

    assert virtual_time.run(scenario()) == 1


def test_a_caller_that_leaves_takes_the_read_from_nobody():
    async def scenario():
        source = Source()
        source.value = 1
        leaving, staying = (asyncio.create_task(source.reads.read()) for _ in range(2))
        await asyncio.sleep(READ_S / 2)
        leaving.cancel()
        await staying
        return source.known

    assert virtual_time.run(scenario()) == 1
