"""An adapter is loaded once, however many ask; a failure is told to all and then forgotten."""

import asyncio

import pytest

from llamafarm_ray.errors import UserError
from llamafarm_ray.serving.adapters import AdapterLoader
from llamafarm_ray.serving.resolution import Target
from llamafarm_ray.types import Digest

TARGET = Target("bot:1.0.0#abc", "bot:1.0.0", Digest.of(b"x"))


class Engine:
    """Loads when told to, and counts."""

    def __init__(self, failures=0):
        self.loads = []
        self.started = asyncio.Event()
        self.may_load = asyncio.Event()
        self._failures = failures

    async def load_adapter(self, name, folder):
        self.loads.append((name, folder))
        self.started.set()
        await self.may_load.wait()
        if self._failures:
            self._failures -= 1
            raise UserError("rank too high")


def test_a_hundred_first_requests_make_one_load(tmp_path):
    async def scenario():
        engine = Engine()
        loader = AdapterLoader(engine, lambda target: tmp_path / target.digest.hex)
        waiting = [asyncio.create_task(loader.ensure(TARGET)) for _ in range(100)]
        await engine.started.wait()
        assert not any(task.done() for task in waiting)
        assert loader.loaded == []
        engine.may_load.set()
        await asyncio.gather(*waiting)
        await loader.ensure(TARGET)
        assert engine.loads == [(TARGET.engine_name, tmp_path / TARGET.digest.hex)]
        assert loader.loaded == [TARGET.engine_name]

    asyncio.run(scenario())


def test_a_failed_load_reaches_every_waiter_and_is_tried_anew(tmp_path):
    async def scenario():
        engine = Engine(failures=1)
        engine.may_load.set()
        loader = AdapterLoader(engine, lambda _: tmp_path)
        results = await asyncio.gather(*(loader.ensure(TARGET) for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [UserError] * 5
        await loader.ensure(TARGET)
        assert len(engine.loads) == 2

    asyncio.run(scenario())


def test_a_caller_that_goes_away_does_not_stop_the_load_of_others(tmp_path):
    async def scenario():
        engine = Engine()
        loader = AdapterLoader(engine, lambda _: tmp_path)
        first, second = (asyncio.create_task(loader.ensure(TARGET)) for _ in range(2))
        await engine.started.wait()
        first.cancel()
        engine.may_load.set()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(scenario())


def test_the_base_model_needs_no_load(tmp_path):
    async def scenario():
        engine = Engine()
        await AdapterLoader(engine, lambda _: tmp_path).ensure(Target("base", "base"))
        assert engine.loads == []

    asyncio.run(scenario())
